"""The release `folder`: any folders whose file names follow a pattern."""

import re
from collections.abc import Mapping

from bdfm_nnunet.dataset_conversion.path_patterns import CASE
from bdfm_nnunet.dataset_conversion.reading.own_data import OWN_DATA, dataset_name, own_labels
from bdfm_nnunet.dataset_conversion.release import Release, Source
from bdfm_nnunet.dataset_conversion.release_json import check_entry
from bdfm_nnunet.errors import InputError

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
    **OWN_DATA,
)


def folder_release(
    images: Mapping[str, str],
    label: str | None = None,
    labels: Mapping[int, str] | None = None,
    patient: str | None = None,
    name: str = "Folder",
) -> Release:
    """Return an entry for files that follow a pattern.

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
    channels = _channels(images, label)
    _check_expression(patient)
    release = Release(
        name="folder",
        title="folders with file names of your own",
        dataset_name=dataset_name(name),
        case_pattern=r"[^/]+?",
        patient_pattern=patient or r"^(.+)$",
        channels=channels,
        label=() if label is None else (Source(expression_of(label)),),
        case_folder="",
        **own_labels(label, labels),
        **OWN_DATA,
    )
    check_entry(release)
    return release


def _channels(images: Mapping[str, str], label: str | None) -> dict[str, Source]:
    if not images:
        raise InputError("no image pattern was given: name one per channel, such as t1='**/{case}/{case}_T1'")
    channels = {channel: Source(expression_of(pattern)) for channel, pattern in images.items()}
    _check_apart(channels, label)
    return channels


def _check_apart(channels: Mapping[str, Source], label: str | None) -> None:
    """Refuse one pattern for two things: a file would be two channels, or image and label."""
    seen: dict[str, str] = {}
    named = {f"channel {name}": source.path for name, source in channels.items()}
    for what, path in {**named, **({} if label is None else {"the label": expression_of(label)})}.items():
        if path in seen:
            raise InputError(f"{seen[path]} and {what} have the same pattern: give each its own files")
        seen[path] = what


def expression_of(pattern: str) -> str:
    """Return the regular expression for a pattern in the style of a shell, without the file ending.

    Raises:
        InputError: `{case}` is not in it.
    """
    if CASE not in pattern:
        raise InputError(
            f"the pattern {pattern!r} does not tell the case: put {{case}} where its id stands",
            entry="pattern-without-case",
        )
    pattern = _ENDING.sub("", pattern.removeprefix("./"))
    meaning = {"**/": r"(?s:(?:.*/)?)", "**": "(?s:.*)", "*": "[^/]*", "?": "[^/]", CASE: CASE}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\{case\})", pattern)
    return "".join(meaning.get(piece, re.escape(piece)) for piece in pieces)


def _check_expression(pattern: str | None) -> None:
    try:
        groups = re.compile(pattern).groups if pattern else 1
    except re.error as error:
        raise InputError(f"patient = {pattern!r} is no regular expression ({error}): correct it") from None
    if not groups:
        raise InputError(f"patient = {pattern!r} has no group: put the part that names the patient in parentheses")
