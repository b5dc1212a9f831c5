"""A log of finished cases, so that a second run does only what is missing or has changed."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.writing.case_record import REFUSED, CaseRecord
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import cannot_write, parse_json, read_regular, write_atomically
from bdfm_nnunet.json_shapes import Shape

NAME = ".conversion.jsonl"
ENGINE = 3
"""To be raised when the rules of conversion change: cases done under older rules are then done anew."""
TARGET = "target "
RULES = ("channels", "label", "masks", "labels", "label_map", "repairs", "grid", "spacing", "origin")
"""The parts of a release's entry that decide what is written."""
_HEADER = {"engine": int, "release": str, "unlabelled": bool, "channels": [str], "rules": str, "link": str}
_STAMPS = {str: ([int], None)}
_ROW = {
    **dict.fromkeys((field.name for field in fields(CaseRecord)), str),
    "sources": {str: str},
    "targets": {str: str},
    "sha256": {str: str},
    "labels": {str: int},
    "aliases": [str],
    "notes": [str],
    "shape": [int],
    "spacing": [float],
}


class Order(Protocol):
    """One case to be written: a `CaseOrder`, or another way to come to a case."""

    @property
    def case(self) -> str:
        """Case id."""

    @property
    def source(self) -> Path:
        """Folder of what it is made from."""

    @property
    def folder(self) -> Path:
        """The nnU-Net data set."""

    def sources(self) -> dict[str, str]:
        """Return role -> file in `source`."""

    def targets(self) -> dict[str, str]:
        """Return role -> file in `folder`."""

    def other_targets(self) -> set[str]:
        """Return files in `folder` where an earlier run may have put the case."""

    def stamp(self, name: str) -> list[int] | None:
        """Return numbers that change when one of `sources` does; None if it is not there."""

    def new_record(self) -> CaseRecord:
        """Return the row of the manifest before the case is written."""


class ResumeLog:
    """One line per finished case, written after its files; a line torn by a crash is not read.

    A line holds the row of the manifest and, for every source and target, size and time of change. A case is finished
    only if all of them are still the same.

    Args:
        folder: the nnU-Net data set.
        release: its table entry.
        unlabelled: whether labels are masks of brain or head.
        link: how unchanged files are placed.
        rules: what else decides what is written; under other rules all cases are done anew.
    """

    def __init__(self, folder: Path, *, release: Release, unlabelled: bool, link: str, rules: str = "") -> None:
        self.folder = folder
        self.path = folder / NAME
        self.header = {
            "engine": ENGINE,
            "release": release.name,
            "unlabelled": unlabelled,
            "channels": list(release.channels),
            "rules": _digest(release) + rules,
            "link": link,
        }
        self._lines = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        lines = list(json_lines(self.path, (_HEADER, {"row": _ROW, "stamps": _STAMPS})))
        header = lines[0] if lines and "row" not in lines[0] else {}
        for key in ("release", "unlabelled", "channels"):
            if key in header and header[key] != self.header[key]:
                raise InputError(
                    f"{self.folder} was converted with {key} = {header[key]}, not {self.header[key]}: "
                    "choose another number with -d, or remove the folder first",
                    entry="converted-otherwise",
                )
        if header != self.header:
            return {}
        return {entry["row"]["case"]: entry for entry in lines[1:] if "row" in entry and _is_record(entry["row"])}

    def finished(self, task: Order) -> CaseRecord | None:
        """Return the row of a case that needs nothing more, else None. Refused cases are always checked again."""
        entry = self._lines.get(task.case)
        if entry is None or entry["row"]["status"] == REFUSED:
            return None
        record = CaseRecord.from_dict(entry["row"])
        try:
            same = (record.sources, record.targets) == (task.sources(), task.targets())
        except Refusal:
            return None
        if not same or entry["stamps"] != _stamps(task, record):
            return None
        new = task.new_record()  # a table of the download may say something else now
        names = ("patient", "session", "site", "aliases", "family")
        return replace(record, **{name: getattr(new, name) for name in names})

    def begin(self, kept: set[str]) -> None:
        """Write the file anew with the lines of the cases that stay as they are."""
        self._lines = {case: entry for case, entry in self._lines.items() if case in kept}
        with write_atomically(self.path) as temporary:
            lines = [self.header, *self._lines.values()]
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, task: Order, record: CaseRecord) -> None:
        """Note a case whose files are all in place.

        Raises:
            InputError: the resume log cannot be written, or a file that a worker wrote is not there.
        """
        stamps = _stamps(task, record)
        for name, stamp in stamps.items():
            if stamp is None and name.startswith(TARGET):
                raise InputError(
                    f"{self.folder / name.removeprefix(TARGET)} was written by a worker but is not there: name folders "
                    "on a disk that all machines of the cluster share"
                )
        line = json.dumps({"row": record.as_dict(), "stamps": stamps})
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _digest(release: Release) -> str:
    entry = release.as_dict()
    return hashlib.sha256(json.dumps({name: entry[name] for name in RULES}).encode()).hexdigest()


def _is_record(row: dict[str, Any]) -> bool:
    return row.keys() == {field.name for field in fields(CaseRecord)} and all(map(is_whole, row["labels"]))


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number, as in names of label values."""
    return text.removeprefix("-").isdecimal() and len(text) < 19


def json_lines(path: Path, shape: Shape) -> Iterator[Any]:
    """Yield what the lines of a resume log stand for; those that a crash has torn or of another shape are left out.

    Args:
        path: the resume log; it need not be there.
        shape: of a line, as in `bdfm_nnunet.json_shapes`.

    Raises:
        InputError: it is something else than a file, or cannot be read.
    """
    if not os.path.lexists(path):
        return
    for line in read_regular(path).splitlines():
        try:
            content = parse_json(line, str(path), shape)
        except InputError:
            continue
        yield content


def _stamps(task: Order, record: CaseRecord) -> dict[str, list[int] | None]:
    sources = {f"source {name}": task.stamp(name) for name in record.sources.values()}
    return sources | {TARGET + name: stamp_of(task.folder / name) for name in record.targets.values()}


def stamp_of(path: Path) -> list[int] | None:
    """Return size and time of change of a file; None if it is not there."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
