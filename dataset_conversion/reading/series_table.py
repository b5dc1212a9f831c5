"""The table of series of `bdfm convert dicom`: what each seems to be, for the user to look at and to change."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.reading.dicom_tree import FoundSeries
from bdfm_nnunet.dataset_conversion.reading.series_contrasts import Proposal
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.table_files import plain_cell, read_numbered, write_table

_CHANNEL, _MARK = "channel", "mark"
COLUMNS = (
    "series", "patient", "session", _CHANNEL, "note", "description", "modality", "images", "voxels", "spacing", "plane",
    "echo_time", "repetition_time", "inversion_time", "flip_angle", "b_value", "contrast_agent", "image_type", _MARK,
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+*-]{0,39}")


def write_series(path: Path, series: Sequence[FoundSeries], proposals: Mapping[str, Proposal]) -> None:
    """Write the table.

    Args:
        path: the `.csv` file.
        series: all that were found.
        proposals: of each, by name.

    Raises:
        InputError: it cannot be written.
    """
    rows = [_row(each, proposals[each.name]) for each in series]
    write_table(path, [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])


def _row(series: FoundSeries, proposal: Proposal) -> dict[str, Any]:
    facts = series.facts
    patient, _, session = series.case.partition("_")
    notes, shape, spacing, plane = [proposal.note], "", "", ""
    try:
        stack = series.stack()
    except Refusal as refusal:
        notes.append(str(refusal).removeprefix(f"{series.told} "))
    else:
        shape = " x ".join(map(str, stack.shape))
        spacing = " x ".join(f"{size:.4g}" for size in stack.spacing)
        plane = stack.plane
        notes.append(stack.note)
    numbers = {
        "echo_time": facts.echo_time, "repetition_time": facts.repetition_time, "inversion_time": facts.inversion_time,
        "flip_angle": facts.flip_angle, "b_value": facts.b_value,
    }  # fmt: skip
    return {
        "series": series.name, "patient": patient, "session": session, _CHANNEL: proposal.channel,
        "note": "; ".join(filter(None, notes)), "description": series.description, "modality": facts.modality,
        "images": len(series.frames), "voxels": shape, "spacing": spacing, "plane": plane,
        **{name: "" if value is None else f"{value:g}" for name, value in numbers.items()},
        "contrast_agent": "yes" if facts.contrast else "", "image_type": " ".join(_codes(facts.image_type)),
        _MARK: series.mark,
    }  # fmt: skip


def _codes(values: Sequence[str]) -> list[str]:
    """Return the values that are codes of the standard and of makers, not free text."""
    return [value for value in values if re.fullmatch(r"(?!.*\d{5})[A-Z][A-Z0-9_]{0,15}", value)]


def read_series(path: Path, series: Sequence[FoundSeries]) -> tuple[dict[str, str], list[str]]:
    """Return the channel of each series by its name, empty for none, and notes.

    Args:
        path: the table, as written and perhaps changed; the columns `channel` and `mark` count.
        series: all that were found.

    Raises:
        InputError: it is no such table, names a series twice, or has a channel that cannot be called so.
    """
    rows = read_numbered(path)
    header = next(iter(rows.values()), [])
    if not {_CHANNEL, _MARK} <= set(header):
        raise InputError(f"{path} has no columns {_CHANNEL} and {_MARK}: name the table that bdfm convert dicom wrote")
    places = header.index(_CHANNEL), header.index(_MARK)
    said: dict[str, str] = {}
    for number, row in list(rows.items())[1:]:
        channel, mark = (plain_cell(row[place]).strip() if place < len(row) else "" for place in places)
        if channel and not _NAME.fullmatch(channel):
            raise InputError(f"{path}, row {number}: {channel!r} is no name of a channel: use letters and digits")
        if mark in said:
            raise InputError(f"{path}, row {number}: the series with the mark {mark} has two rows: remove one of them")
        said[mark] = channel
    new = [each for each in series if each.mark not in said]
    gone = len(said.keys() - {each.mark for each in series})
    notes = [f"{len(new)} series are not in {path.name} and were left aside, for instance {new[0].name}"] if new else []
    notes += [f"{gone} rows of {path.name} are of series that are not there"] if gone else []
    if len(new) == len(series):
        raise InputError(f"{path} knows none of the {len(series)} series: name the table of this folder")
    return {each.name: said.get(each.mark, "") for each in series}, notes
