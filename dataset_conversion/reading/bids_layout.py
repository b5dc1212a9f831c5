"""The release `bids`: raw images in the layout of BIDS, with masks from its derivatives or beside the images."""

import re
from collections.abc import Mapping, Sequence

from bdfm_nnunet.dataset_conversion.path_patterns import CASE
from bdfm_nnunet.dataset_conversion.reading.own_data import OWN_DATA, dataset_name, own_labels
from bdfm_nnunet.dataset_conversion.release import Release, Source, Table
from bdfm_nnunet.errors import InputError

_VALUE = r"[A-Za-z0-9+]+"
_WORD = re.compile(r"[A-Za-z0-9]+")
_ENTITY = re.compile(rf"[a-z]+-{_VALUE}")
_ENTITIES = rf"(?:_[a-z]+-{_VALUE})*?"
_SUBJECT = rf"sub-{_VALUE}(?:_ses-{_VALUE})?"
_RAW = r"(?:(?!(?:derivatives|sourcedata|code)/)[^/]+/)*?"
_DATATYPE = (
    rf"(?P<subject>sub-{_VALUE})/(?:(?P<session>ses-{_VALUE})/)?(?:anat|[a-z]+)/"
    r"(?=(?P=subject)(?(session)_(?P=session)_|_(?!ses-)))"
)
"""Folders of subject and session whose names the file's name begins with."""
NOTES = (
    "patient keys such as sub-01 mean something inside their own data set alone",
    "with one channel every file is a case; with several a case is a session with one file of each",
)
PARTICIPANTS = Table(
    r"participants\.tsv",
    id=("participant_id",),
    site=("site", "Site", "SITE", "site_id", "center", "centre", "scanner_site"),
)


def bids_release(
    suffixes: Sequence[str] = ("T1w",),
    *,
    label: str | None = None,
    labels: Mapping[int, str] | None = None,
    name: str = "BIDS",
) -> Release:
    """Return an entry for a BIDS data set: images, and optionally masks from its derivatives or beside the images.

    With one suffix every file is a case, whatever its entities. With several a case is a subject's session, and must
    have one file of each; entities before a suffix choose among files: `acq-mprage_T1w`. A mask belongs to the one
    image whose entities its own name holds, with any others.

    Args:
        suffixes: one channel each, for instance `T1w` and `FLAIR`.
        label: suffix of the masks, entities before it if need be (`label-lesion_mask`), and the suffix of their image
            where their names hold that (`FLAIR_roi`; `roi` alone finds these too).
        labels: label value to meaning; `{1: "foreground"}` by default.
        name: part of the data set's name after `DatasetXXX_`.

    Raises:
        InputError: not the form of a suffix, none or one given twice, or labels without a label file.
    """
    _check_suffixes(suffixes, label)
    alone = len(suffixes) == 1
    return Release(
        name="bids",
        title=f"a BIDS data set: {', '.join(suffixes)}",
        dataset_name=dataset_name(name),
        case_pattern=_SUBJECT + (_ENTITIES.replace("*?", "*") if alone else ""),
        patient_pattern=rf"^(sub-{_VALUE})",
        session_pattern=rf"_ses-({_VALUE})",
        channels={suffix: Source(_RAW + _DATATYPE + _file(suffix, alone)) for suffix in suffixes},
        label=() if label is None else _masks(label, suffixes),
        by_entities=True,
        case_folder="",
        tables=(PARTICIPANTS,),
        **own_labels(label, labels),
        **OWN_DATA,
        notes=NOTES,
    )


def _check_suffixes(suffixes: Sequence[str], label: str | None) -> None:
    if not suffixes or len(set(suffixes)) < len(suffixes):
        raise InputError(f"suffixes {', '.join(suffixes) or '(none)'}: name one or more, each once, such as T1w")
    if label in suffixes:
        raise InputError(f"{label} is given as image and as label: give the label the end of the masks' own names")


def _file(suffix: str, alone: bool) -> str:
    """Return the expression of a file's name; where the id holds no entities, any may stand around the wanted ones."""
    *wanted, last = suffix.split("_")
    if not _WORD.fullmatch(last) or not all(map(_ENTITY.fullmatch, wanted)):
        raise InputError(
            f"{suffix!r} is no suffix of BIDS: write it as T1w, or with entities before it as acq-mprage_T1w"
        )
    between = "" if alone and not wanted else _ENTITIES
    return CASE + between + "".join(f"_{entity}{_ENTITIES}" for entity in wanted) + f"_{last}"


def _masks(label: str, suffixes: Sequence[str]) -> tuple[Source, ...]:
    """Return where masks lie: among the derivatives, or else in the raw data."""
    *wanted, last = label.split("_")
    if not _WORD.fullmatch(last) or not all(_ENTITY.fullmatch(part) or _WORD.fullmatch(part) for part in wanted):
        raise InputError(
            f"{label!r} is no end of a mask's name in BIDS: write it as label-lesion_mask or FLAIR_roi, or name the "
            "files by patterns with `bdfm convert folder`"
        )
    image = "|".join(dict.fromkeys(suffix.rpartition("_")[2] for suffix in suffixes))
    named = any(map(_WORD.fullmatch, wanted))
    perhaps = "" if named else f"(?:_(?:{image}){_ENTITIES})?"
    middle = "".join(f"_{part}{_ENTITIES}" for part in wanted)
    name = f"{CASE}{_ENTITIES}{perhaps}{middle}{perhaps if middle else ''}_{last}"
    return Source(rf"(?:.*/)?derivatives/(?:.*/)?{name}"), Source(rf"{_RAW}{name}")


BIDS = bids_release()
