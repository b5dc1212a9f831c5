"""A table by the user that tells where cases were scanned, or to which family patients belong."""

import os
from collections.abc import Sequence

from bdfm_nnunet.dataset_conversion.reading.patient_tables import SITE_COLUMNS
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import plain_id
from bdfm_nnunet.table_files import read_table, says

ID_COLUMNS = (
    "participant_id", "subject_id", "patient_id", "case_id", "participant", "subject", "patient", "case", "id",
)  # fmt: skip
"""What tables call the column of ids, in small letters; the first of these that a table has."""


FAMILY_COLUMNS = ("family_id", "rel_family_id", "familyid", "family")
"""What tables call the column of families, in small letters."""


def read_sites(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return id in comparable form to site, from a table with any mark and encoding.

    Where the first row names a column of sites (`site`, `centre`, `scanner_site` ...), that one is read and the ids are
    those of a column such as `participant_id`, `patient` or `id`, or else of the first; a table without must have two
    columns: id and site. Rows that do not know the site ("n/a") are passed over.

    Raises:
        InputError: the file cannot be read, a row lacks its cells, it is not clear which column holds the sites, or an
            id has two sites.
    """
    return _read(path, SITE_COLUMNS, "site")


def read_families(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return id in comparable form to family, from a table as for `read_sites` (column `Family_ID` ...).

    Raises:
        InputError: as `read_sites`.
    """
    return _read(path, FAMILY_COLUMNS, "family")


def _read(path: str | os.PathLike[str], columns: Sequence[str], what: str) -> dict[str, str]:
    rows = read_table(path)
    if not rows:
        raise InputError(f"{path} has no row: give a table with an id and a {what} in each row")
    header = [cell.casefold() for cell in rows[0]]
    named = _column(header, columns, path)
    first, second = (0, 1) if named is None else (_column(header, ID_COLUMNS, path, beside=named), named)
    first = first if first is not None else int(second == 0)
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) <= max(first, second):
            raise InputError(f"{path} has no {what} in row {number}: give a table with an id and a {what} in each row")
        if named is None and any(row[2:]):
            raise InputError(
                f"{path} has more than two columns, none of which is called {what}: name the column of the {what} so"
            )
        if (named is None or number > 1) and row[first] and says(row[second]):
            _add(found, row[first], row[second], path, what)
    return found


def _column(
    header: Sequence[str], names: Sequence[str], path: str | os.PathLike[str], *, beside: int | None = None
) -> int | None:
    """Return the column with the first of the names."""
    at = [index for index, cell in enumerate(header) if cell in names and index != beside]
    at = [index for index in at if header[index] == next(name for name in names if name in header)] or at
    if len(at) > 1:
        raise InputError(f"{path} has two columns called {header[at[0]]}: rename or remove one")
    return at[0] if at else None


def _add(found: dict[str, str], name: str, value: str, path: str | os.PathLike[str], what: str) -> None:
    if found.setdefault(plain_id(name), value) != value:
        there = found[plain_id(name)]
        several = {"site": "sites", "family": "families"}[what]
        raise InputError(f"{path} has two {several} for {name}, {there} and {value}: keep the right row")
