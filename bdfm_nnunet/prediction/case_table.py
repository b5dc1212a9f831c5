"""A table beside predictions that grows case by case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.table_files import plain_cell, read_table, write_table

_SECONDS_TO_WAIT = 60.0


@dataclass(frozen=True)
class CaseTable:
    """A CSV file with rows for each case, which survives interruption; several processes may write it.

    Attributes:
        path: the file.
        columns: its header; the first column is the case.
        what: of what it is, for an error.
        order: sorts the rows; by default those of a new case come last.

    Example:
        >>> table = CaseTable(Path("sizes.csv"), ("case", "size"), "table of sizes")
        >>> table.put("a", [["a", 1]])
        >>> table.put("b", [["b", 2]])
        >>> table.put("a", [["a", 3]])
        >>> table.rows()
        [['b', '2'], ['a', '3']]
    """

    path: Path
    columns: tuple[str, ...]
    what: str
    order: Callable[[Sequence[Any]], Any] | None = None

    def put(self, case: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write the rows of a case, in the place of those that it had.

        Raises:
            InputError: the file is another table, or cannot be written.
        """
        busy = f"another process writes {self.path}: wait for it"
        lock = self.path.with_name(f".{self.path.name}.lock")
        with hold_lock(lock, otherwise=busy, wait=_SECONDS_TO_WAIT, remove=True):
            joined = [*(row for row in self.rows() if plain_cell(row[0]) != case), *rows]
            write_table(self.path, [self.columns, *(sorted(joined, key=self.order) if self.order else joined)])

    def rows(self) -> list[list[str]]:
        """Return the rows, none where there is no file.

        Raises:
            InputError: it cannot be read, or is another table.
        """
        if not self.path.is_file():
            return []
        header, *rows = read_table(self.path)
        if tuple(header) != self.columns or any(len(row) != len(self.columns) for row in rows):
            raise InputError(f"{self.path} is no {self.what} of this version: move it away")
        return rows
