"""Tables in a download that give ids used elsewhere, sites or families for its cases."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bdfm_nnunet.dataset_conversion.release import Release, Table
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import plain_id
from bdfm_nnunet.table_files import read_table, says

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase

SITE_COLUMNS = ("site", "site_id", "center", "centre", "scanner_site", "hospital", "institution")
"""What tables call the place of a scan, in small letters."""


def add_what_tables_say(
    source: Path, release: Release, paths: list[str], cases: "Mapping[str, FoundCase]", notes: list[str]
) -> None:
    """Fill in aliases, sites and families; a table that cannot be used becomes a note.

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
            except InputError as problem:
                notes.append(f"{problem}; the table was not used")
            else:
                notes.append(f"{path} knows {known} of the ids in the download")


def _read(path: Path, name: str, table: Table, keys: "Mapping[str, list[FoundCase]]") -> int:
    """Take over the rows of one table, and return how many were used."""
    rows = read_table(path, name)
    header = {cell: index for index, cell in enumerate(rows[0])} if rows else {}
    ids = next((header[column] for column in table.id if column in header), None)
    if ids is None:
        raise InputError(f"{name} has no column {' or '.join(table.id)}: check that it is the right one")
    aliases = [header[column] for column in table.aliases if column in header]
    sites = [header[column] for column in table.site if column in header][:1]
    families = [header[column] for column in table.family if column in header][:1]
    known = 0
    for row in rows[1:]:
        row = row + [""] * (len(rows[0]) - len(row))
        cases = keys.get(plain_id(row[ids]), [])
        known += bool(cases)
        for case in cases:
            case.aliases = sorted({*case.aliases, *_aliases(row, aliases, table.alias_pattern)})
            case.site = next((row[index].strip() for index in sites if says(row[index])), case.site)
            case.family = next((row[index].strip() for index in families if says(row[index])), case.family)
    return known


def _aliases(row: list[str], columns: list[int], pattern: str) -> set[str]:
    matches = (re.search(pattern, row[index].strip()) for index in columns if says(row[index]))
    return {"".join(text or "" for text in match.groups()) for match in matches if match}
