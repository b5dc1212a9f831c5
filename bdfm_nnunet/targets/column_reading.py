"""One target from a table: the cells of every case become numbers, or the first that cannot is named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets.case_matching import CaseRows
from bdfm_nnunet.targets.cell_values import CellFault, NumberForm, is_missing, known_unit
from bdfm_nnunet.targets.class_reading import (
    MOST_CLASSES,
    Classes,
    check_class_cell,
    counts,
    found_spellings,
    inferred_type,
    ordered,
    says_which_is_positive,
)
from bdfm_nnunet.targets.column_requests import ClassSpelling, ColumnRequest, time_and_event
from bdfm_nnunet.targets.target_tables import TableRow, TargetTable
from bdfm_nnunet.targets.target_types import TargetColumn, TargetType

Value = tuple[float, ...]
_NO_EVENT = ("0", "false", "no", "alive", "living", "censored", "0:*", "lost*", "falsch", "nein", "non", "faux")
_EVENT = ("1", "true", "yes", "dead", "deceased*", "died", "death", "event", "1:*", "wahr", "ja", "oui", "vrai")
_EVENTS = (ClassSpelling("0", _NO_EVENT), ClassSpelling("1", _EVENT))
_TOLD = "--unit or the known table"


class OneValue(InputError):
    """A target of which the cases have one value, or none: nothing can be learnt, though no cell is wrong."""


@dataclass(frozen=True)
class ReadColumn:
    """A target that was read.

    Attributes:
        column: the target.
        numbers: (cases, 1 or 2), in the order of the cases.
        notes: sentences for the user.
    """

    column: TargetColumn
    numbers: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """Everything that a column is read from."""

    table: TargetTable
    request: ColumnRequest
    rows: tuple[TableRow, ...]
    missing: tuple[str, ...]

    def is_missing(self, cell: str) -> bool:
        spelt = any(cell == word for each in self.request.classes for word in (each.name, *each.spellings))
        return not spelt and is_missing(cell, self.missing)

    def known(self, column: str) -> list[TableRow]:
        return [row for row in self.rows if not self.is_missing(row.cells[column])]

    def wrong(self, row: TableRow, column: str, fault: CellFault, remedy: str) -> InputError:
        return self.table.fault(row, column, str(fault), f"{remedy}, or count it as missing with --missing")

    def useless(self, what: str, remedy: str) -> InputError:
        return OneValue(self._told(what, remedy))

    def unclear(self, what: str, remedy: str) -> InputError:
        return InputError(self._told(what, remedy))

    def _told(self, what: str, remedy: str) -> str:
        return f"{self.table.path}: {self.request.source} {what}: {remedy}"


def read_column(
    table: TargetTable,
    found: CaseRows,
    patients: Mapping[str, str],
    request: ColumnRequest,
    *,
    missing: Sequence[str] = (),
) -> ReadColumn:
    """Read a target.

    Args:
        table: the table.
        found: its rows of each case.
        patients: case to patient, for all cases of the data set.
        request: what is asked for.
        missing: further spellings of missing cells.

    Raises:
        InputError: a column does not exist, a cell cannot be used, a case or patient has two values, or the target
            takes only one value.
    """
    request = _with_columns(table, request)
    used = {row.number: row for rows in found.of_case.values() for row in rows}
    rows = tuple(used[number] for number in sorted(used))
    source = _Source(table, request, rows, (*missing, *request.missing))
    cells = [row.cells[request.source] for row in source.known(request.source)]
    kind = request.type or inferred_type(cells)
    if not cells:
        raise source.useless("has no value for any case", "name another column, or check what counts as missing")
    if kind is None:
        raise source.unclear(
            f"is of no clear type ({counts(cells)})", f"write the type, as in --column {request.name}:continuous"
        )
    read, column, notes = _reader(source, kind, cells)
    values = {row.number: read(row) for row in rows}
    chosen = {case: _value_of(case, rows, values, source) for case, rows in found.of_case.items()}
    _check_patients(chosen, found, patients, source, kind)
    numbers = np.full((len(patients), kind.width), np.nan)
    for place, case in enumerate(sorted(patients)):
        if (value := chosen.get(case)) is not None:
            numbers[place] = value
    notes += _check_values(numbers, column, source)
    return ReadColumn(column, numbers, notes)


def _with_columns(table: TargetTable, request: ColumnRequest) -> ColumnRequest:
    """Return a request whose columns are those of the table."""
    if request.type is TargetType.SURVIVAL and not request.event:
        request = time_and_event(request.source, table.columns, request)
    times = tuple(name for name in map(table.find, request.times) if name)
    return replace(
        request,
        source=table.column(request.source or request.name),
        event=table.column(request.event) if request.event else "",
        plus=table.column(request.plus) if request.plus else "",
        times=times,
    )


def _reader(
    source: _Source, kind: TargetType, cells: Sequence[str]
) -> tuple[Callable[[TableRow], Value | None], TargetColumn, list[str]]:
    if kind.has_classes:
        return _class_reader(source, kind, cells)
    return _survival_reader(source) if kind is TargetType.SURVIVAL else _number_reader(source)


# -------------------------------------------------------------------------------------------------------- classes


def _class_reader(
    source: _Source, kind: TargetType, cells: Sequence[str]
) -> tuple[Callable[[TableRow], Value | None], TargetColumn, list[str]]:
    request, notes = source.request, []
    if request.unit:
        raise InputError(f"--unit names {request.name}, which has classes and no unit ({kind}): leave it out")
    classes = _classes(source, kind, cells)
    if kind is TargetType.BINARY and not (request.classes or request.positive or says_which_is_positive(classes.names)):
        notes.append(f"{request.name}: {classes.names[1]} is taken as the positive class; --positive names another")

    def read(row: TableRow) -> Value | None:
        cell = row.cells[request.source]
        if source.is_missing(cell):
            return None
        try:
            return (float(classes.number(cell)),)
        except CellFault as fault:
            raise source.wrong(row, request.source, fault, "correct it, add it to --classes") from None

    return read, TargetColumn(request.name, kind, classes.names), notes


def _classes(source: _Source, kind: TargetType, cells: Sequence[str]) -> Classes:
    request = source.request
    for row in source.known(request.source):
        try:
            check_class_cell(row.cells[request.source])
        except CellFault as fault:
            raise source.wrong(row, request.source, fault, "write the class as text") from None
    spellings = list(request.classes) or found_spellings(cells)
    few = 2 if kind is TargetType.BINARY else MOST_CLASSES
    if len(spellings) < 2:
        raise source.useless(f"has one class only, {spellings[0].name}", "a target needs two: name another column")
    if len(spellings) > few:
        row = next(row for row in source.known(request.source) if len(_before(source, row)) > few)
        raise source.table.fault(
            row, request.source, f"is a class beyond the {few} of a {kind} target ({counts(cells)})",
            f"merge classes as in --classes {request.name}=no,yes=1|2, or choose another type",
        )  # fmt: skip
    try:
        return Classes(ordered(spellings, request, kind))
    except CellFault as fault:
        raise source.unclear(
            str(fault), f"write them from the lowest (negative) up, as in --classes {request.name}=LOW,HIGH"
        ) from None


def _before(source: _Source, last: TableRow) -> list[ClassSpelling]:
    known = [row for row in source.known(source.request.source) if row.number <= last.number]
    return found_spellings([row.cells[source.request.source] for row in known])


# -------------------------------------------------------------------------------------------------------- numbers


class _Numbers:
    """Numbers of a column in one unit."""

    def __init__(self, source: _Source, columns: Sequence[str]) -> None:
        self.source = source
        cells = [row.cells[column] for column in columns for row in source.known(column)]
        self.form = NumberForm.of(cells)
        self.unit: str | None = known_unit(source.request.unit) if source.request.unit else None
        self._told = "" if self.unit is None else _TOLD

    def read(self, row: TableRow, column: str, *, with_unit: bool = True) -> float | None:
        cell = row.cells[column]
        if self.source.is_missing(cell):
            return None
        try:
            number, unit = self.form.read(cell)
            if with_unit:
                self._check_unit(unit, f"row {row.number}")
        except CellFault as fault:
            raise self.source.wrong(row, column, fault, "write a plain number") from None
        return number

    def _check_unit(self, unit: str, where: str) -> None:
        if self.unit is None:
            self.unit, self._told = unit, where
        if unit != self.unit and (unit or self._told != _TOLD):
            raise CellFault(f"has the unit {unit or 'none'!r}, {self._told} has {self.unit or 'none'!r}")


def _number_reader(source: _Source) -> tuple[Callable[[TableRow], Value | None], TargetColumn, list[str]]:
    request = source.request
    numbers = _Numbers(source, [request.source])
    added = _Numbers(source, [request.plus]) if request.plus else None
    for row in source.known(request.source):
        numbers.read(row, request.source)

    def read(row: TableRow) -> Value | None:
        number = numbers.read(row, request.source)
        more = 0.0 if added is None else added.read(row, request.plus, with_unit=False)
        return None if number is None or more is None else (number + more,)

    return read, TargetColumn(request.name, TargetType.CONTINUOUS, unit=numbers.unit or ""), []


# -------------------------------------------------------------------------------------------------------- survival


def _survival_reader(source: _Source) -> tuple[Callable[[TableRow], Value | None], TargetColumn, list[str]]:
    request = source.request
    columns = [request.source, *request.times]
    numbers = _Numbers(source, columns)
    events = Classes(request.classes or _EVENTS)
    _check_event_column(source)
    for column in columns:
        for row in source.known(column):
            numbers.read(row, column)

    def read(row: TableRow) -> Value | None:
        time = next((each for column in columns if (each := numbers.read(row, column)) is not None), None)
        cell = row.cells[request.event]
        if time is None or source.is_missing(cell):
            return None
        if time < 0:
            raise source.wrong(row, request.source, CellFault("is negative"), "write the time since the scan")
        try:
            return time, float(events.number(cell) > 0)
        except CellFault:
            fault, both = CellFault("is neither an event nor none"), f"--classes {request.name}=alive,dead"
            raise source.wrong(row, request.event, fault, f"name both as in {both}") from None

    target = TargetColumn(request.name, TargetType.SURVIVAL, unit=numbers.unit or "")
    timeless = [row for row in source.known(request.event) if read(row) is None]
    first = f"row {timeless[0].number}" if timeless else ""
    notes = [f"{request.name}: {len(timeless)} rows say whether there was an event and no time ({first} ...)"]
    return read, target, notes if timeless else []


def _check_event_column(source: _Source) -> None:
    """Refuse a column of 0 and 1 that is called after censoring: it says either the one or the other."""
    request = source.request
    if "censor" in request.event.casefold() and not request.classes:
        cells = {row.cells[request.event].casefold() for row in source.known(request.event)}
        if cells <= {"0", "1", "0.0", "1.0", "true", "false", "yes", "no"}:
            raise InputError(
                f"{source.table.path}: {request.event} does not tell whether 1 means censored or the event: write the "
                f"value of censored and that of the event, as in --classes {request.name}=1,0"
            )


# ---------------------------------------------------------------------------------------------------------- checks


def _value_of(case: str, rows: Sequence[TableRow], values: Mapping[int, Value | None], source: _Source) -> Value | None:
    """Return the one value of a case."""
    told = [(row, value) for row in rows if (value := values[row.number]) is not None]
    for row, value in told[1:]:
        if value != told[0][1]:
            first, column = told[0][0], source.request.source
            raise InputError(
                f"{source.table.path}: {column} of {case} is {first.cells[column]!r} in row {first.number} and "
                f"{row.cells[column]!r} in row {row.number}: remove one of the rows, or name scans in the column of ids"
            )
    return told[0][1] if told else None


def _check_patients(
    chosen: Mapping[str, Value | None],
    found: CaseRows,
    patients: Mapping[str, str],
    source: _Source,
    kind: TargetType,
) -> None:
    """Refuse two values of a patient for what belongs to the patient; numbers may differ from scan to scan."""
    if source.request.per_scan or kind is TargetType.CONTINUOUS:
        return
    first: dict[str, str] = {}
    for case in sorted(case for case, value in chosen.items() if value is not None):
        before = first.setdefault(patients[case], case)
        if chosen[before] != chosen[case]:
            one, two = found.of_case[before][0], found.of_case[case][0]
            column = source.request.source
            raise InputError(
                f"{source.table.path}: {column} of patient {patients[case]} is {one.cells[column]!r} in row "
                f"{one.number} ({before}) and {two.cells[column]!r} in row {two.number} ({case}): correct one, or say "
                f"with --per-scan {source.request.name} that it may change from scan to scan"
            )


def _check_values(numbers: NDArray[np.float64], column: TargetColumn, source: _Source) -> list[str]:
    """Refuse targets that take one value, and note classes without a case."""
    known = numbers[~np.isnan(numbers).any(axis=1)]
    if len(known) == 0:
        raise source.useless("has no value for any case", "name another column, or check what counts as missing")
    if column.type is TargetType.SURVIVAL:
        if not known[:, 1].any():
            raise source.useless("has no event, all cases are censored", "check the column of events and --classes")
        return []
    different = np.unique(known)
    if len(different) > 1:
        empty = [name for number, name in enumerate(column.classes) if number not in different]
        return [f"{column.name}: no case has the class {' or '.join(empty)}"] if empty else []
    if column.type.has_classes:
        only = column.classes[int(different[0])]
        raise source.useless(f"has one class only, {only}, in {len(known)} cases", "a target needs two of them")
    raise source.useless(f"has the one value {different[0]:g} in {len(known)} cases", "a target needs different ones")
