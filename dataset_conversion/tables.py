"""What tables in a download say about its cases: ids elsewhere, sites."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bdfm_nnunet.dataset_conversion.release import Release, Table
from bdfm_nnunet.patients import plain_id

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion.scanning import FoundCase

NOTHING = {"", "na", "n/a", "nan", "none", "null", "unknown", "-"}
"""What tables write where they know nothing, in small letters."""


class UnreadableTable(Exception):
    """Why a table says nothing, one sentence with its remedy."""


def add_what_tables_say(
    source: Path, release: Release, paths: list[str], cases: "Mapping[str, FoundCase]", notes: list[str]
) -> None:
    """Fills in aliases and sites; a table that cannot be used becomes a note.

    Args:
        source: the download.
        release: its `tables` say which columns count.
        paths: tables that were found, relative to `source`.
        cases: case id to what is known of it.
        notes: is added to.
    """
    keys: dict[str, list[FoundCase]] = {}
    for case, content in cases.items():
        for key in {plain_id(case), plain_id(release.patient_of(case))}:
            keys.setdefault(key, []).append(content)
    for table in release.tables:
        for path in [path for path in paths if re.fullmatch(table.path, path)]:
            try:
                known = _read(source / path, path, table, keys)
            except UnreadableTable as problem:
                notes.append(str(problem))
            else:
                notes.append(f"{path} knows {known} of the ids in the download")


def _read(path: Path, name: str, table: Table, keys: "Mapping[str, list[FoundCase]]") -> int:
    """Takes over the rows of one table; returns how many were of use."""
    rows = read_rows(path, name)
    header = {cell.strip(): index for index, cell in enumerate(rows[0])} if rows else {}
    ids = next((header[column] for column in table.id if column in header), None)
    if ids is None:
        raise UnreadableTable(f"{name} has no column {' or '.join(table.id)}: it was not used")
    aliases = [header[column] for column in table.aliases if column in header]
    sites = [header[column] for column in table.site if column in header][:1]
    known = 0
    for row in rows[1:]:
        row = row + [""] * (len(rows[0]) - len(row))
        cases = keys.get(plain_id(row[ids]), [])
        known += bool(cases)
        for case in cases:
            case.aliases = sorted({*case.aliases, *_aliases(row, aliases, table.alias_pattern)})
            case.site = next((row[index].strip() for index in sites if _says(row[index])), case.site)
    return known


def _aliases(row: list[str], columns: list[int], pattern: str) -> set[str]:
    matches = (re.search(pattern, row[index].strip()) for index in columns if _says(row[index]))
    return {"".join(text or "" for text in match.groups()) for match in matches if match}


def _says(cell: str) -> bool:
    return cell.strip().lower() not in NOTHING


def read_rows(path: Path, name: str) -> list[list[str]]:
    """The cells of a table, every one as text; of a workbook, those of its first sheet.

    Raises:
        UnreadableTable: it is damaged, or a package is missing.
    """
    return _read_workbook(path, name) if path.suffix.lower() == ".xlsx" else _read_text(path, name)


def _read_text(path: Path, name: str) -> list[list[str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableTable(f"{name} cannot be read ({error.strerror}): it was not used") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UnreadableTable(f"{name} is no table of text ({error}): it was not used") from None


def _read_workbook(path: Path, name: str) -> list[list[str]]:
    try:
        import openpyxl
    except ImportError:
        raise UnreadableTable(
            f'{name} was not used: reading it needs a package, pip install "bdfm-nnunet[tables]"'
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [["" if cell is None else str(cell) for cell in row] for row in book.worksheets[0].values]
        book.close()
    except Exception as error:  # the reader has no family of errors: zip, XML and key errors all mean damage
        raise UnreadableTable(f"{name} is no readable workbook ({type(error).__name__}): it was not used") from None
    return [row for row in rows if any(row)]
