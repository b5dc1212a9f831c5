"""A table with one row per case, scan or patient: its header, and its rows under the numbers of a spreadsheet."""

import difflib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.table_files import read_numbered


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        number: as a spreadsheet counts, from 1.
        cells: column to cell.
    """

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class TargetTable:
    """A table that was read.

    Attributes:
        path: the file, for messages.
        columns: names of the columns, in order, without empty ones.
        rows: below the header.
    """

    path: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "TargetTable":
        """Read a file.

        Raises:
            InputError: it cannot be read, has no row below the header, or has a row that is longer than the header.
        """
        numbered = read_numbered(path)
        if len(numbered) < 2:
            raise InputError(f"{path} has no row below a header: give a table with an id and targets in each row")
        first, *others = numbered
        header = numbered[first]
        rows = []
        for number in others:
            cells = numbered[number]
            if any(cells[len(header) :]):
                raise InputError(
                    f"{path}: row {number} has {len(cells)} cells and the header {len(header)}: put cells that hold "
                    "the mark between cells in quotes, or repair the row"
                )
            padded = cells + [""] * (len(header) - len(cells))
            rows.append(TableRow(number, {name: cell for name, cell in zip(header, padded) if name}))
        twice = [name for name, times in Counter(filter(None, header)).items() if times > 1]
        if twice:
            raise InputError(f"{path} has two columns called {twice[0]}: rename or remove one")
        return cls(str(path), tuple(filter(None, header)), tuple(rows))

    def find(self, name: str) -> str | None:
        """Return the column of a name, regardless of case, spaces and underscores; None if there is none."""
        if name in self.columns:
            return name
        same = [column for column in self.columns if _plain(column) == _plain(name)]
        return same[0] if len(same) == 1 else None

    def column(self, name: str) -> str:
        """Return the column of a name.

        Raises:
            InputError: there is none.
        """
        found = self.find(name)
        if found is None:
            folded = {column.casefold(): column for column in self.columns}
            close = [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=1)]
            close += [column for column in self.columns if name.casefold() in column.casefold()]
            shown = ", ".join(self.columns[:20]) + (" ..." if len(self.columns) > 20 else "")
            hint = f"did you mean {close[0]}? It" if close else "it"
            raise InputError(f"{self.path} has no column {name!r}: {hint} has the columns {shown}")
        return found

    def fault(self, row: TableRow, column: str, what: str, remedy: str) -> InputError:
        """Return the error of one cell."""
        cell = row.cells[column]
        shown = cell if len(cell) <= 60 else f"{cell[:57]}..."
        return InputError(f"{self.path}: {column} {shown!r} in row {row.number} {what}: {remedy}")


def _plain(name: str) -> str:
    return "".join(name.casefold().split()).replace("_", "").replace("-", "")
