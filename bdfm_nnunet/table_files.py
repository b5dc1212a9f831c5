"""Table files: read with any delimiter and encoding, and written so that no spreadsheet runs a cell as a formula."""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_regular, write_atomically

DELIMITERS = ",;\t|"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # what Excel writes and reads above the header
NOTHING = {"", "na", "n/a", "nan", "none", "null", "unknown", "-"}
"""What tables write where they know nothing, in small letters."""


def says(cell: str) -> bool:
    """Return whether a cell tells something.

    >>> says("Ulm"), says(" N/A ")
    (True, False)
    """
    return cell.strip().lower() not in NOTHING


def read_table(path: str | os.PathLike[str], name: str | None = None) -> list[list[str]]:
    """Return the non-empty rows of a table; every cell is text without white space around it.

    Text files may have commas, semicolons, tabs or bars between cells (the one that gives the same number of cells in
    the most rows), in UTF-8, UTF-16 or else Latin-1, with or without quotes. For an `.xlsx` workbook, the first sheet
    is read.

    Args:
        path: the file.
        name: name of the file in messages; by default its path.

    Raises:
        InputError: the file cannot be read, or a package is missing.

    Example:
        >>> write_table("aliases.csv", [["BraTS-GLI-00001", "UCSF-PDGM-0004"]])
        >>> read_table("aliases.csv")
        [['BraTS-GLI-00001', 'UCSF-PDGM-0004']]
    """
    return list(read_numbered(path, name).values())


def read_numbered(path: str | os.PathLike[str], name: str | None = None) -> dict[int, list[str]]:
    """Return the rows as `read_table`, by their number as a spreadsheet counts, from 1 and with the empty ones.

    Raises:
        InputError: as `read_table`.
    """
    name = str(path) if name is None else name
    content = read_regular(path)
    rows = _workbook(content, name) if Path(path).suffix.lower() == ".xlsx" else _text(content, name)
    cells = ([cell.strip() for cell in row] for row in rows)
    return {number: row for number, row in enumerate(cells, 1) if any(row)}


def _text(content: bytes, name: str) -> list[list[str]]:
    text = _decoded(content)
    if line := _SEPARATOR_LINE.match(text):
        return [[], *(_rows(text[line.end() :], line[1]) or _unquoted(name))]
    if "\0" in text:
        raise InputError(f"{name} is no table of text (it holds zero bytes): export it as CSV with UTF-8")
    tried = {mark: _rows(text, mark) for mark in DELIMITERS}
    scores = {mark: _agreement(rows) for mark, rows in tried.items() if rows is not None}
    best = max(scores, key=lambda mark: scores[mark], default="")
    if not best or (len(scores) < len(tried) and not scores[best][0]):
        _unquoted(name)
    return tried[best] or []


def _unquoted(name: str) -> NoReturn:
    raise InputError(f"{name} is no table of text (its quotes do not close): export it as CSV with UTF-8")


def _decoded(content: bytes) -> str:
    encodings = ["utf-16"] if content.startswith(_UTF_16) else ["utf-8-sig"]
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


def _rows(text: str, mark: str) -> list[list[str]] | None:
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True))
    except csv.Error:
        return None


def _agreement(rows: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Return the share of rows with as many cells as the first one, and that number; 0 for a single column."""
    filled = [row for row in rows if any(cell.strip() for cell in row)]
    width = len(filled[0]) if filled else 0
    return (sum(len(row) == width for row in filled) / len(filled) if width > 1 else 0.0, width)


def _workbook(content: bytes, name: str) -> list[list[str]]:
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f'{name} cannot be read without a further package: run `pip install "bdfm-nnunet[tables]"`, or export it '
            "as CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        rows = [["" if cell is None else str(cell) for cell in row] for row in book.worksheets[0].values]
        book.close()
    except Exception as error:  # the reader has no family of errors: zip, XML and key errors all mean damage
        raise InputError(f"{name} is no readable workbook ({type(error).__name__}): save it again or as CSV") from None
    return rows


def write_table(path: str | os.PathLike[str], rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> None:
    """Write a CSV file, completely or not at all; an apostrophe escapes cells that a spreadsheet would run as formulas.

    Args:
        path: the file.
        rows: rows of cells of any type.
        line_end: line terminator.

    Raises:
        InputError: the file cannot be written.
    """
    with (
        write_atomically(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        csv.writer(stream, lineterminator=line_end).writerows([safe_cell(cell) for cell in row] for row in rows)


def safe_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula; numbers are unchanged.

    >>> safe_cell("=1+1"), safe_cell("-0.5"), safe_cell("case")
    ("'=1+1", '-0.5', 'case')
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def plain_cell(cell: str) -> str:
    """Return a cell as it was before `safe_cell`.

    >>> plain_cell("'=1+1"), plain_cell("'quoted'")
    ('=1+1', "'quoted'")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
