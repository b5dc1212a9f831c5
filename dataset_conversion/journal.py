"""Remembers finished cases, so that a second run does only what is missing or has changed."""

import json
import os
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.cases import REFUSED, CaseRecord, Task
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, write_atomically

NAME = ".conversion.jsonl"
ENGINE = 1
"""To be raised when the rules of conversion change: cases done under older rules are then done anew."""


class Journal:
    """One line per finished case, written after its files; a line torn by a crash is not read.

    A line holds the row of the manifest and, for every source and target, size and time of change. A case is finished
    only if all of them are still the same.
    """

    def __init__(self, folder: Path, *, release: str, unlabelled: bool, link: str) -> None:
        self.folder = folder
        self.path = folder / NAME
        self.header = {"engine": ENGINE, "release": release, "unlabelled": unlabelled, "link": link}
        self._lines = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        lines = [entry for text in self.path.read_text(encoding="utf-8").splitlines() if (entry := _parse(text))]
        header = lines[0] if lines else {}
        for key in ("release", "unlabelled"):
            if header and header.get(key) != self.header[key]:
                raise InputError(
                    f"{self.folder} was converted with {key} = {header.get(key)}, not {self.header[key]}: "
                    "choose another number with -d, or remove the folder first"
                )
        if header != self.header:
            return {}
        return {entry["row"]["case"]: entry for entry in lines[1:] if "row" in entry}

    def finished(self, task: Task) -> CaseRecord | None:
        """The row of a case that needs nothing more, else None. Refused cases are always looked at again."""
        entry = self._lines.get(task.case)
        if entry is None or entry["row"]["status"] == REFUSED:
            return None
        record = CaseRecord.from_dict(entry["row"])
        if entry["stamps"] != _stamps(task, record) or record.sources != {
            role: paths[0] for role, paths in task.files.items() if role in task.roles() and len(paths) == 1
        }:
            return None
        return record

    def begin(self, kept: set[str]) -> None:
        """Writes the file anew with the lines of the cases that stay as they are."""
        self._lines = {case: entry for case, entry in self._lines.items() if case in kept}
        with write_atomically(self.path) as temporary:
            lines = [self.header, *self._lines.values()]
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, task: Task, record: CaseRecord) -> None:
        """Notes a case whose files are all in place."""
        line = json.dumps({"row": record.as_dict(), "stamps": _stamps(task, record)})
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _stamps(task: Task, record: CaseRecord) -> dict[str, list[int] | None]:
    sources = {f"source {name}": task.source / name for name in record.sources.values()}
    targets = {f"target {name}": task.folder / name for name in record.targets.values()}
    return {name: _stamp(path) for name, path in {**sources, **targets}.items()}


def _stamp(path: Path) -> list[int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
