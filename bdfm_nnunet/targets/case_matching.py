"""Which rows of a table tell of which case: rows name cases, patients, other ids of them, or visits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import CaseList, groups, plain_id
from bdfm_nnunet.targets.cell_values import is_date, is_missing
from bdfm_nnunet.targets.target_tables import TableRow, TargetTable

ID_COLUMNS = (
    "participant_id", "subject_id", "patient_id", "case_id", "participant", "subject", "patient", "case", "id",
)  # fmt: skip
"""What tables call the column of ids, in small letters; the first of these that a table has."""
SESSION_COLUMNS = ("session_id", "session", "ses")
_LIKE_AN_ID = re.compile(r"id|subject|participant|patient|case|label|scan|image|name|key", re.IGNORECASE)
_ENDING = re.compile(r"(_\d{4})?\.(nii|nii\.gz|mha|mhd|nrrd|npz|b2nd)$", re.IGNORECASE)
_ADNI = re.compile(r"(\d{3})_S_(\d{4,5})", re.IGNORECASE)
_DAY = re.compile(r"(?:^|[_-]|ses-|sess-)d(\d{3,5})(?:$|_)")
_MONTH = re.compile(r"(?:^|[_-])(?:ses-)?m(\d{1,3})(?:$|_)", re.IGNORECASE)
FARTHEST = {"days": 365.0, "months": 6.0}
"""How far the visit of a row may lie from the scan, by the clock of the table."""


@dataclass(frozen=True)
class CaseRows:
    """What a table tells of a data set.

    Attributes:
        of_case: case to the rows that tell of it.
        by_patient: cases that were found by their patient, not by their own id.
        unknown: rows that name no case.
        id_column: column of the ids.
    """

    of_case: Mapping[str, tuple[TableRow, ...]]
    by_patient: frozenset[str]
    unknown: tuple[TableRow, ...]
    id_column: str


class CaseIds:
    """The ids by which the cases of a data set can be found.

    Attributes:
        patients: case to patient.
    """

    def __init__(self, cases: CaseList) -> None:
        self.rows = {str(row["case"]): row for row in sorted(cases.rows, key=lambda row: str(row["case"]))}
        self.patients = groups(self.rows.values(), cases.scope)
        self._exact = {case: {case} for case in self.rows}
        self._found: dict[str, tuple[int, set[str]]] = {}
        self._levels: list[dict[str, set[str]]] = [{}, {}, {}]
        for case, row in self.rows.items():
            names: list[Iterable[str]] = [[case], [str(row.get("patient") or case)], row.get("aliases", ())]
            for level, keys in zip(self._levels, names):
                for key in keys:
                    for form in _forms(key):
                        level.setdefault(form, set()).add(case)

    def cases_of(self, name: str) -> tuple[int, set[str]]:
        """Return level (0: the id of a case, 1: of a patient, 2: another id of it) and the cases that an id names."""
        if name not in self._found:  # tables name an id many times
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> tuple[int, set[str]]:
        if name in self._exact:
            return 0, self._exact[name]
        forms = _forms(name)
        return next(
            ((level, known[form]) for level, known in enumerate(self._levels) for form in forms if form in known),
            (len(self._levels), set()),
        )

    def session_of(self, case: str) -> str:
        """Return the session of a case in comparable form, from the manifest or its id; empty if it has none."""
        found = re.search(r"ses-([A-Za-z0-9]+)", case)
        return plain_id(str(self.rows[case].get("session") or (found[1] if found else ""))).removeprefix("ses-")


def _forms(name: str) -> list[str]:
    """Return an id and what it may stand for: without `sub-`, ending of a file, or a spreadsheet's `.0`."""
    name = name.strip()
    found = [name, _ENDING.sub("", name), re.sub(r"\.0+$", "", name)]
    found += [f"ADNI{match[1]}S{match[2]}" for match in [_ADNI.fullmatch(name)] if match]
    found += [each.removeprefix("sub-") for each in found]
    return list(dict.fromkeys(plain_id(each) for each in found))


def find_id_column(table: TargetTable, ids: CaseIds, named: str | None) -> str:
    """Return the column whose cells name most cases; of equal ones, one that is called like a column of ids.

    Raises:
        InputError: the named column does not exist, or no cell of any column names a case or patient.
    """
    if named is not None:
        return table.column(named)
    likely = [column for column in table.columns if _LIKE_AN_ID.search(column)]
    matches: dict[str, tuple[int, int]] = {}
    for columns in (likely, table.columns):  # all cells of a wide table take a while
        matches |= {column: _matches(table, column, ids) for column in columns}
        if any(cases for cases, _ in matches.values()):
            break
    usual = {name: rank for rank, name in enumerate(ID_COLUMNS)}
    order = {name: index for index, name in enumerate(table.columns)}
    best = max(matches, key=lambda name: (matches[name], -usual.get(name.casefold(), len(usual)), -order[name]))
    if not matches[best][0]:
        named_so = [c for name in ID_COLUMNS for c in table.columns if c.casefold() == name]
        _raise_unmatched(table, (named_so or likely or table.columns)[0], ids)
    return best


def _matches(table: TargetTable, column: str, ids: CaseIds) -> tuple[int, int]:
    """Return the number of cases that a column names, and of those by their own id."""
    own: set[str] = set()
    all_cases: set[str] = set()
    for cell in {row.cells[column] for row in table.rows}:
        level, cases = ids.cases_of(cell)
        all_cases |= cases
        own |= cases if level == 0 else set()
    return len(all_cases), len(own)


def _raise_unmatched(table: TargetTable, column: str, ids: CaseIds) -> NoReturn:
    row = table.rows[0]
    dates = next((each for each in table.rows if is_date(each.cells[column])), None)
    if dates is not None:
        raise table.fault(dates, column, "is a date that a spreadsheet made of an id",
                          "format that column as text and fill it in again")  # fmt: skip
    case = next(iter(ids.rows))
    raise InputError(
        f"{table.path} names no case or patient of the data set ({column} in row {row.number} is "
        f"{row.cells[column]!r}, a case is called {case!r}): name the column of ids with --id, or write ids as there",
        entry="table-of-other-cases",
    )


def match_rows(
    table: TargetTable, ids: CaseIds, *, named: str | None = None, clock: str = "", clock_column: str = ""
) -> CaseRows:
    """Find the rows of every case.

    A row that names a case goes before one that names its patient, and that before other ids. Where the table has a
    column of sessions, a patient's row tells of that session alone.

    Args:
        table: the table.
        ids: of the data set.
        named: column of the ids; by default the one that names most cases.
        clock: `days` or `months` where rows of a patient are visits: a scan takes the nearest, of unknown date the
            first.
        clock_column: its column.

    Raises:
        InputError: as `find_id_column`; or no row names a case.
    """
    column = find_id_column(table, ids, named)
    sessions = next((name for name in map(table.find, SESSION_COLUMNS) if name and name != column), None)
    found: dict[str, dict[int, list[TableRow]]] = {case: {} for case in ids.rows}
    unknown = []
    for row in table.rows:
        level, cases = ids.cases_of(row.cells[column])
        if level > 0 and sessions and not is_missing(row.cells[sessions]):
            session = plain_id(row.cells[sessions]).removeprefix("ses-")
            level, cases = 0, {case for case in cases if ids.session_of(case) == session}
        for case in cases:
            found[case].setdefault(level, []).append(row)
        if not cases and not is_missing(row.cells[column]):
            unknown.append(row)
    if len(unknown) == len(table.rows):
        _raise_unmatched(table, column, ids)
    of_case = {case: tuple(levels[min(levels)]) for case, levels in found.items() if levels}
    by_patient = frozenset(case for case, levels in found.items() if levels and min(levels) > 0)
    if clock:
        visits = [case for case, rows in of_case.items() if case in by_patient or len(rows) > 1]
        of_case |= {case: _nearest(of_case[case], case, ids, clock, clock_column) for case in visits}
    return CaseRows({case: rows for case, rows in of_case.items() if rows}, by_patient, tuple(unknown), column)


def _nearest(rows: Sequence[TableRow], case: str, ids: CaseIds, clock: str, column: str) -> tuple[TableRow, ...]:
    """Return the rows of the visit nearest to a scan."""
    timed = [(time, row) for row in rows if (time := _time(row.cells.get(column, ""), clock)) is not None]
    if not timed:
        return tuple(rows)
    scan = _time_of_case(case, ids.rows[case], clock)
    if scan is None:
        first = min(time for time, _ in timed)
        return tuple(row for time, row in timed if time == first)
    gap = min(abs(time - scan) for time, _ in timed)
    near = [row for time, row in timed if abs(time - scan) == gap][:1]
    return tuple(near) if gap <= FARTHEST[clock] else ()


def _time(cell: str, clock: str) -> float | None:
    """Return days, or months, of a visit: `0339`; `bl`, `sc`, `m06`, `y1`."""
    cell = cell.strip().casefold()
    if clock == "days":
        digits = re.fullmatch(r"d?(\d{1,5})(\.0)?", cell)
        return float(digits[1]) if digits else None
    if re.fullmatch(r"(.*_)?(bl|sc|scmri|init|screening|baseline)", cell):
        return 0.0
    match = re.fullmatch(r"(?:.*_)?([my])(\d{1,3})", cell)
    return float(match[2]) * (12 if match[1] == "y" else 1) if match else None


def _time_of_case(case: str, row: Mapping[str, Any], clock: str) -> float | None:
    names = [str(row.get("session") or ""), case]
    if clock == "days":
        return next((float(match[1]) for name in names if (match := _DAY.search(name))), None)
    named = [_time(name.removeprefix("ses-"), clock) for name in names[:1]]
    return next((t for t in named if t is not None), None) or next(
        (float(match[1]) for name in names if (match := _MONTH.search(name))), named[0]
    )
