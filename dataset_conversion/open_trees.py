"""Entries for data that is no known release: any folders with a file-name pattern, and BIDS."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bdfm_nnunet.dataset_conversion.anatomy import one_label_each
from bdfm_nnunet.dataset_conversion.entries import check_entry
from bdfm_nnunet.dataset_conversion.patterns import CASE
from bdfm_nnunet.dataset_conversion.release import Release, Source, Table
from bdfm_nnunet.errors import InputError

_OWN: dict[str, Any] = {
    "licence": "that of your data",
    "url": "your own data",
    "citation": "that of your data",
}
_ENDING = re.compile(r"\.(?:nii(?:\.gz)?|img|hdr)$", re.IGNORECASE)

FOLDER = Release(
    name="folder",
    title="any folders: every volume is a case",
    dataset_name="Folder",
    case_pattern=r"(?s:.+)",
    patient_pattern=r"^(.+)$",
    channels={"image": Source(CASE)},
    case_folder="",
    notes=(
        "as it stands every volume is a case of one channel without label (use --unlabelled); patterns with {case} "
        "describe cases of several channels and labels: --image t1='**/{case}/{case}_T1' --label '**/{case}/seg'",
        "the path makes the case id, with underscores for slashes; every case counts as a patient of its own unless "
        "--patient tells them from the id",
    ),
    **_OWN,
)


def folder_release(
    images: Mapping[str, str],
    label: str | None = None,
    labels: Mapping[int, str] | None = None,
    patient: str | None = None,
    name: str = "Folder",
) -> Release:
    """An entry for files that follow a pattern.

    Patterns are whole paths inside the download with an ending or without: `*` stands for anything but a slash, `**/`
    for any folders or none, `{case}` for the case id.

    Args:
        images: channel name to pattern.
        label: pattern of the label file; None where there is none.
        labels: label value to meaning; `{1: "foreground"}` by default.
        patient: regular expression that finds the patient key (its group 1) in a case id; by default the case id.
        name: part of the data set's name after `DatasetXXX_`.

    A file that fits several patterns belongs to the one with most letters: `{case}_seg` before `{case}`.

    Raises:
        InputError: a pattern without `{case}` or given twice, no image, labels without a label file, names of labels
            that nnU-Net cannot have, or a bad expression.
    """
    if not images:
        raise InputError("no image pattern was given: name one per channel, such as t1='**/{case}/{case}_T1'")
    _check_expression(patient)
    channels = {channel: Source(expression_of(pattern)) for channel, pattern in images.items()}
    _check_apart(channels, label)
    release = Release(
        name="folder",
        title="folders with file names of your own",
        dataset_name=_dataset_name(name),
        case_pattern=r"[^/]+?",
        patient_pattern=patient or r"^(.+)$",
        channels=channels,
        label=() if label is None else (Source(expression_of(label)),),
        case_folder="",
        **_own_labels(label, labels),
        **_OWN,
    )
    check_entry(release)
    return release


def _check_apart(channels: Mapping[str, Source], label: str | None) -> None:
    """Refuses one pattern for two things: a file would be two channels, or image and label."""
    seen: dict[str, str] = {}
    named = {f"channel {name}": source.path for name, source in channels.items()}
    for what, path in {**named, **({} if label is None else {"the label": expression_of(label)})}.items():
        if path in seen:
            raise InputError(f"{seen[path]} and {what} have the same pattern: give each its own files")
        seen[path] = what


def expression_of(pattern: str) -> str:
    """The regular expression for a pattern in the style of a shell, without the file ending.

    Raises:
        InputError: `{case}` is not in it.
    """
    if CASE not in pattern:
        raise InputError(f"the pattern {pattern!r} does not tell the case: put {{case}} where its id stands")
    pattern = _ENDING.sub("", pattern.removeprefix("./"))
    meaning = {"**/": r"(?s:(?:.*/)?)", "**": "(?s:.*)", "*": "[^/]*", "?": "[^/]", CASE: CASE}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\{case\})", pattern)
    return "".join(meaning.get(piece, re.escape(piece)) for piece in pieces)


def _own_labels(label: str | None, labels: Mapping[int, str] | None) -> dict[str, Any]:
    if label is None:
        if labels:
            raise InputError("label values were named, but no label file: give a pattern for it, or leave them out")
        return {}
    named = {
        value: meaning for value, meaning in (labels or {1: "foreground"}).items() if not _is_background(value, meaning)
    }
    _check_labels(named)
    return one_label_each(named)


def _is_background(value: int, meaning: str) -> bool:
    """Whether a label is the background, which need not be named."""
    zero, called = value == 0, meaning.strip().casefold() == "background"
    if zero != called:
        raise InputError(
            f"label {value} cannot be called {meaning!r}: in nnU-Net 0 is the background, and nothing else is; write "
            "0=background, or leave it out"
        )
    return zero


_MEANING = re.compile(r"[^\W_][\w .()+'-]*")


def _check_labels(labels: Mapping[int, str]) -> None:
    if not labels:
        raise InputError("no label but the background was named: name the others, as in --labels 1=lesion,2=oedema")
    seen: dict[str, int] = {}
    for value, meaning in labels.items():
        if not _MEANING.fullmatch(meaning) or meaning != meaning.strip():
            raise InputError(
                f"label {value} cannot be called {meaning!r} (--labels): use letters, digits, spaces, hyphens and "
                "underscores, as in --labels 1=lesion,2=oedema"
            )
        other = seen.setdefault(meaning.replace(" ", "_").casefold(), value)
        if other != value:
            raise InputError(
                f"labels {other} and {value} are both called {meaning!r} (--labels): give each its own name"
            )
    if "ignore" in seen and seen["ignore"] != max(labels):
        raise InputError("the label ignore must have the highest value in nnU-Net (--labels): choose another name")


def _check_expression(pattern: str | None) -> None:
    try:
        groups = re.compile(pattern).groups if pattern else 1
    except re.error as error:
        raise InputError(f"patient = {pattern!r} is no regular expression ({error}): correct it") from None
    if not groups:
        raise InputError(f"patient = {pattern!r} has no group: put the part that names the patient in parentheses")


def _dataset_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*", name):
        raise InputError(f"the name {name!r} is no good for a folder of nnU-Net: use letters and digits")
    return name


# -------------------------------------------------------------------------------------------------------------- BIDS

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


def bids_release(
    suffixes: Sequence[str] = ("T1w",),
    *,
    label: str | None = None,
    labels: Mapping[int, str] | None = None,
    name: str = "BIDS",
) -> Release:
    """An entry for a BIDS data set, raw data and optionally masks, from its derivatives or else beside the images.

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
    if not suffixes or len(set(suffixes)) < len(suffixes):
        raise InputError(f"suffixes {', '.join(suffixes) or '(none)'}: name one or more, each once, such as T1w")
    if label in suffixes:
        raise InputError(f"{label} is given as image and as label: give the label the end of the masks' own names")
    alone = len(suffixes) == 1
    case_pattern = _SUBJECT + (_ENTITIES.replace("*?", "*") if alone else "")
    return Release(
        name="bids",
        title=f"a BIDS data set: {', '.join(suffixes)}",
        dataset_name=_dataset_name(name),
        case_pattern=case_pattern,
        patient_pattern=rf"^(sub-{_VALUE})",
        session_pattern=rf"_ses-({_VALUE})",
        channels={suffix: Source(_RAW + _DATATYPE + _file(suffix, alone)) for suffix in suffixes},
        label=() if label is None else _masks(label, suffixes),
        by_entities=True,
        case_folder="",
        tables=(
            Table(
                r"participants\.tsv",
                id=("participant_id",),
                site=("site", "Site", "SITE", "site_id", "center", "centre", "scanner_site"),
            ),
        ),
        **_own_labels(label, labels),
        **_OWN,
        notes=(
            "patient keys such as sub-01 mean something inside their own data set alone",
            "with one channel every file is a case; with several a case is a session with one file of each",
        ),
    )


def _file(suffix: str, alone: bool) -> str:
    """The expression of a file's name; where the id does not hold the entities, any may stand around the wanted."""
    *wanted, last = suffix.split("_")
    if not _WORD.fullmatch(last) or not all(map(_ENTITY.fullmatch, wanted)):
        raise InputError(
            f"{suffix!r} is no suffix of BIDS: write it as T1w, or with entities before it as acq-mprage_T1w"
        )
    between = "" if alone and not wanted else _ENTITIES
    return CASE + between + "".join(f"_{entity}{_ENTITIES}" for entity in wanted) + f"_{last}"


def _masks(label: str, suffixes: Sequence[str]) -> tuple[Source, ...]:
    """Where masks lie: among the derivatives, or else in the raw data."""
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
