"""`bdfm targets`: a table is checked and becomes the targets of a data set."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.safe_names import printable
from bdfm_nnunet.targets.balanced_subset import balanced
from bdfm_nnunet.targets.case_matching import SESSION_COLUMNS, CaseIds, CaseRows, match_rows
from bdfm_nnunet.targets.cell_values import is_missing
from bdfm_nnunet.targets.class_reading import inferred_type
from bdfm_nnunet.targets.column_reading import OneValue, ReadColumn, read_column
from bdfm_nnunet.targets.column_requests import SPREAD, ColumnRequest, GroupRequest, with_options
from bdfm_nnunet.targets.group_reading import read_group
from bdfm_nnunet.targets.known_tables import KnownTable, groups_there, known_table, targets_there
from bdfm_nnunet.targets.leak_warnings import leak_warnings
from bdfm_nnunet.targets.table_sidecar import read_sidecar, with_sidecar
from bdfm_nnunet.targets.target_files import TARGETS_TABLE, TARGETS_TYPES, read_targets, write_targets
from bdfm_nnunet.targets.target_tables import TargetTable
from bdfm_nnunet.targets.target_types import TargetColumn, Targets, TargetType

MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What a user says about a table; everything may be left out.

    Attributes:
        columns: targets; none: all of a known table, or every column whose type is clear.
        groups: groupings beside those of a known table.
        id_column: column of the ids of cases or patients.
        missing: further spellings of missing cells.
        known: name of a known table, or `none`; by default it is recognised.
        classes: target to its classes in order.
        positive: binary target to its positive class.
        units: target to its unit.
        per_scan: targets of which the scans of a patient may have different classes.
        balanced: target of which a balanced part of the patients keeps its value.
        seed: of that part.
        strict: rows that name no case, and cases without a row, are refused.
        add: targets that are there are kept beside these.
    """

    columns: tuple[ColumnRequest, ...] = ()
    groups: tuple[GroupRequest, ...] = ()
    id_column: str | None = None
    missing: tuple[str, ...] = ()
    known: str | None = None
    classes: Mapping[str, Any] = field(default_factory=dict)
    positive: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    per_scan: tuple[str, ...] = ()
    balanced: str | None = None
    seed: int = 0
    strict: bool = False
    add: bool = False


@dataclass(frozen=True)
class TargetsReport:
    """Targets that were installed.

    Attributes:
        targets: all of them.
        files: that were written.
        source: the table, and what it is.
        notes: sentences on what is missing or was chosen.
        warnings: sentences on what may be wrong.
    """

    targets: Targets
    files: list[Path]
    source: str
    notes: list[str]
    warnings: list[str]

    def summary(self) -> str:
        """Return lines for a terminal."""
        targets = self.targets
        patients = len(set(targets.patients.values()))
        lines = [f"targets of {len(targets.cases)} cases of {patients} patients from {self.source}"]
        lines += [f"  {name}: {_described(targets, name)}" for name in targets.columns]
        lines += [f"  group {name}: {_group_described(values)}" for name, values in targets.groups.items()]
        lines += [f"note: {note}" for note in self.notes] + [f"warning: {warning}" for warning in self.warnings]
        lines += [f"written: {' and '.join(map(str, self.files))}"]
        return "\n".join(map(printable, lines))


def install_targets(
    cases: CaseList, folders: Sequence[Path], path: str | os.PathLike[str], options: TableOptions | None = None
) -> TargetsReport:
    """Check a table and write targets.csv and targets.json into the folders of a data set.

    Args:
        cases: of the data set.
        folders: of the data set in nnUNet_raw and nnUNet_preprocessed, those that exist.
        path: the table: text with any mark and encoding, or a workbook.
        options: what is said about it.

    Raises:
        InputError: the table cannot be used; the message names the row.
    """
    options = options or TableOptions()
    table = TargetTable.read(path)
    known = known_table(table, options.known)
    ids = CaseIds(cases)
    found = match_rows(
        table, ids, named=options.id_column or (known.id_column if known else "") or None,
        clock=known.clock if known else "", clock_column=(known and table.find(known.clock_column)) or "",
    )  # fmt: skip
    notes = _notes_on_ids(table, ids, found, options) + ([cases.note] if cases.note else [])
    columns, more = _read_columns(table, found, ids, options, known)
    groups, further = _read_groups(table, found, ids, options, known)
    notes += [*more, *further]
    numbers = {name: each.numbers for name, each in columns.items()}
    targets = Targets(
        {name: each.column for name, each in columns.items()},
        tuple(sorted(ids.patients)),
        ids.patients,
        groups,
        numbers,
    )
    if options.balanced is not None:
        targets, size = balanced(targets, options.balanced, seed=options.seed)
        drawn = f"drawn with the seed {options.seed}"
        notes.append(f"{options.balanced}: {size} patients of each class keep their value, one scan each, {drawn}")
    if options.add:
        targets = _added(targets, folders)
    source = f"{path} ({known.title})" if known else str(path)
    report = TargetsReport(
        targets, [folder / name for folder in folders for name in (TARGETS_TABLE, TARGETS_TYPES)], source, notes,
        leak_warnings(targets),
    )  # fmt: skip
    for folder in folders:
        write_targets(folder, targets, notes={"source": str(path), "notes": notes, "warnings": report.warnings})
    return report


# ----------------------------------------------------------------------------------------------------------- columns


def _read_columns(
    table: TargetTable, found: CaseRows, ids: CaseIds, options: TableOptions, known: KnownTable | None
) -> tuple[dict[str, ReadColumn], list[str]]:
    sidecar = read_sidecar(table.path)
    chosen = bool(options.columns) or known is not None
    requests, notes = _requests(table, found, options, known, sidecar)
    requests = with_options(
        requests, classes=options.classes, positive=options.positive, units=options.units, per_scan=options.per_scan
    )
    columns: dict[str, ReadColumn] = {}
    for request in requests:
        if request.name in columns:
            raise InputError(f"--column names target {request.name} twice: give each its own name")
        try:
            columns[request.name] = read_column(table, found, ids.patients, request, missing=options.missing)
        except InputError as error:
            needed = options.columns or request.name in {*options.classes, *options.positive, *options.units}
            if needed or (known and not request.optional and not isinstance(error, OneValue)):
                raise
            notes.append(f"{request.name} was left out: {error}")
            continue
        notes += columns[request.name].notes
    if not columns:
        reasons = f" ({notes[0]})" if notes else ""
        raise InputError(f"{table.path} has no column that can be a target{reasons}: name one with --column NAME:TYPE")
    if not chosen:
        notes.append("types were taken from the cells; --column NAME:TYPE says otherwise")
    return columns, notes


def _requests(
    table: TargetTable,
    found: CaseRows,
    options: TableOptions,
    known: KnownTable | None,
    sidecar: Mapping[str, Mapping[str, Any]],
) -> tuple[list[ColumnRequest], list[str]]:
    """Return the targets that are asked for, or that the table offers."""
    offered = {request.name: request for request in targets_there(table, known)} if known else {}
    if known and not options.columns:
        return list(offered.values()), []
    if options.columns:
        taken = [_offered(each, offered) for each in options.columns]
        return [_with_sidecar(each, table, found, sidecar, options) for each in taken], []
    requests, unclear = [], []
    for column in table.columns:
        if column == found.id_column or column.casefold() in SESSION_COLUMNS:
            continue
        request = ColumnRequest(name=_usable(column), source=column)
        request = _with_sidecar(request, table, found, sidecar, options)
        if request.type is None:
            unclear.append(column)
        else:
            requests.append(request)
    return requests, [f"no target was made of {_some(unclear)}"] if unclear else []


def _offered(request: ColumnRequest, offered: Mapping[str, ColumnRequest]) -> ColumnRequest:
    """Return the target of a known table that a request names, unless it says something else of it."""
    known = offered.get(request.name)
    return known if known and not request.source and request.type in (None, known.type) else request


def _with_sidecar(
    request: ColumnRequest, table: TargetTable, found: CaseRows, sidecar: Mapping[str, Any], options: TableOptions
) -> ColumnRequest:
    if request.type is TargetType.SURVIVAL:
        return request
    column = table.column(request.source or request.name)
    rows = {row.number: row for rows in found.of_case.values() for row in rows}
    cells = [rows[number].cells[column] for number in sorted(rows)]
    kind = inferred_type([cell for cell in cells if not is_missing(cell, options.missing)])
    return with_sidecar(replace(request, source=column), sidecar, kind) if sidecar else replace(
        request, type=request.type or kind
    )  # fmt: skip


def _usable(column: str) -> str:
    """Return a column as the name of a target, which may become the name of a file."""
    name = re.sub(r"[/\\:=@\x00-\x1f]+", "_", column).lstrip(".").strip()[:60] or "target"
    return f"{name}_value" if name in ("case", "patient") or name.endswith(SPREAD) else name


# ------------------------------------------------------------------------------------------------------------ groups


def _read_groups(
    table: TargetTable, found: CaseRows, ids: CaseIds, options: TableOptions, known: KnownTable | None
) -> tuple[dict[str, dict[str, str]], list[str]]:
    requests = {request.name: request for request in (groups_there(table, known) if known else [])}
    requests |= {request.name: request for request in options.groups}
    groups, notes = {}, []
    for name, request in requests.items():
        try:
            groups[name], note = read_group(table, found, request, missing=options.missing)
        except InputError as error:
            if request in options.groups:
                raise
            note = f"group {name} was left out: {error}"
        notes += [note] if note else []
    sites = {case: str(row["site"]) for case, row in ids.rows.items() if row.get("site")}
    if sites and "site" not in groups:
        groups["site"] = sites
    return groups, notes


# ------------------------------------------------------------------------------------------------------------- notes


def _notes_on_ids(table: TargetTable, ids: CaseIds, found: CaseRows, options: TableOptions) -> list[str]:
    """Return sentences on rows without a case and on cases without a row; refuse both where that is asked for."""
    notes = []
    if found.unknown:
        rows = [f"row {row.number} {row.cells[found.id_column]!r}" for row in found.unknown]
        notes.append(
            f"{table.path}: {len(rows)} of {len(table.rows)} rows name no case or patient of the data set "
            f"({_some(rows)})"
        )
    without = sorted(set(ids.rows) - set(found.of_case))
    if without:
        notes.append(
            f"{len(without)} of {len(ids.rows)} cases have no row in {table.path}, so their targets are missing "
            f"({_some(without)})"
        )
    if notes and options.strict:
        raise InputError(f"{notes[0]}: correct the ids, or leave out --strict")
    shared = _ambiguous(found)
    return notes + ([f"several rows name one patient by other ids ({shared})"] if shared else [])


def _ambiguous(found: CaseRows) -> str:
    for case, rows in found.of_case.items():
        names = {row.cells[found.id_column] for row in rows}
        if len(names) > 1:
            return f"{case}: {' and '.join(sorted(names))}"
    return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def _added(targets: Targets, folders: Sequence[Path]) -> Targets:
    """Return targets with those that are installed already; of one name the new one counts."""
    there = [folder for folder in folders if os.path.lexists(folder / TARGETS_TYPES)]
    if not there:
        return targets
    before = read_targets(*there)
    old = {name: column for name, column in before.columns.items() if name not in targets.columns}
    return replace(
        targets,
        columns={**old, **targets.columns},
        numbers={**{name: before.values(name, targets.cases) for name in old}, **targets.numbers},
        groups={**before.groups, **targets.groups},
    )


def _described(targets: Targets, name: str) -> str:
    column: TargetColumn = targets.columns[name]
    known = targets.values(name, targets.known(name))
    unit = f" {column.unit}" if column.unit else ""
    lacking = len(targets.cases) - len(known)
    missing = f", missing {lacking}" if lacking else ""
    if column.type is TargetType.SURVIVAL:
        events = int(known[:, 1].sum())
        median = f"median time {np.median(known[:, 0]):.4g}{unit}"
        return f"{column.type}, {events} events in {len(known)} cases, {median}{missing}"
    if column.type.has_classes:
        times = [int((known[:, 0] == number).sum()) for number in range(len(column.classes))]
        return f"{column.type}, {', '.join(f'{c} {n}' for c, n in zip(column.classes, times))}{missing}"
    low, middle, high = np.quantile(known, [0, 0.5, 1])
    return f"{column.type}, {low:.4g} to {high:.4g}{unit}, median {middle:.4g}, {len(known)} cases{missing}"


def _group_described(values: Mapping[str, str]) -> str:
    names = sorted(set(values.values()))
    counted = [f"{name} {list(values.values()).count(name)}" for name in names[:8]]
    return ", ".join(counted) + (" ..." if len(names) > 8 else "")
