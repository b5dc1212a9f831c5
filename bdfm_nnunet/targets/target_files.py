"""`targets.csv` and `targets.json` beside dataset.json: the values of every case, and what they mean.

`targets.csv` has the columns `case` and `patient`, one per target (classes by name; a survival has two, `NAME time`
and `NAME event`) and one per grouping; an empty cell is a missing value. `targets.json` holds type, classes and unit of
every target and the columns of the groupings.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, read_regular, write_atomically, write_json
from bdfm_nnunet.safe_names import check_name
from bdfm_nnunet.table_files import plain_cell, read_table, write_table
from bdfm_nnunet.targets.target_types import TargetColumn, Targets, TargetType

TARGETS_TABLE = "targets.csv"
TARGETS_TYPES = "targets.json"
_AGAIN = "install the targets anew with `bdfm targets`"
_COLUMN = {"type": str, "classes?": [str], "unit?": str}
_SHAPE = {"targets": {str: _COLUMN}, "groups?": {str: str}}


def write_targets(folder: Path, targets: Targets, *, notes: Mapping[str, Any] | None = None) -> None:
    """Write both files into a folder; the table first, so that a types file never lacks its table.

    Args:
        folder: folder of a data set in nnUNet_raw or nnUNet_preprocessed.
        targets: the targets of all its cases.
        notes: further content of targets.json, such as the source and warnings.

    Raises:
        InputError: a file cannot be written.
    """
    headers = {name: _headers(column) for name, column in targets.columns.items()}
    taken = {"case", "patient", *(header for each in headers.values() for header in each)}
    groups = {name: name if name not in taken else f"{name} (group)" for name in targets.groups}
    rows: list[list[Any]] = [["case", "patient", *(h for each in headers.values() for h in each), *groups.values()]]
    for number, case in enumerate(targets.cases):
        cells = [text for name in headers for text in _cells(targets.columns[name], targets.numbers[name][number])]
        found = [targets.groups[name].get(case, "") for name in groups]
        rows.append([case, targets.patients[case], *cells, *found])
    columns = {
        name: {"type": str(column.type), "classes": list(column.classes), "unit": column.unit}
        for name, column in targets.columns.items()
    }
    (folder / TARGETS_TYPES).unlink(missing_ok=True)  # a killed run leaves no types that fit another table
    write_table(folder / TARGETS_TABLE, rows)
    write_json(folder / TARGETS_TYPES, {"targets": columns, "groups": groups, **(notes or {})})


def copy_targets(source: Path, folder: Path) -> None:
    """Copy the targets of a data set from one of its folders into another; nothing if it has none.

    Raises:
        InputError: a file cannot be read or written.
    """
    if all((source / name).is_file() for name in (TARGETS_TABLE, TARGETS_TYPES)):
        (folder / TARGETS_TYPES).unlink(missing_ok=True)
        for name in (TARGETS_TABLE, TARGETS_TYPES):
            with write_atomically(folder / name) as temporary:
                temporary.write_bytes(read_regular(source / name))


def read_targets(*folders: Path) -> Targets:
    """Return the targets of a data set, from the first of its folders (raw, preprocessed) that holds both files.

    Raises:
        InputError: no folder does, a file is damaged, or the two do not fit each other.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
        >>> write_targets(Path("."), Targets({"age": age}, ("a",), {"a": "P1"}, {}, {"age": np.array([[64.0]])}))
        >>> read_targets(Path(".")).columns["age"].unit
        'years'
    """
    for folder in folders:
        if all(os.path.lexists(folder / name) for name in (TARGETS_TABLE, TARGETS_TYPES)):
            return _read(folder)
    raise InputError(
        f"{' and '.join(map(str, folders))} hold no {TARGETS_TABLE} with {TARGETS_TYPES}: install the targets of the "
        "cases with `bdfm targets -d ID TABLE.csv`"
    )


def _read(folder: Path) -> Targets:
    content = read_json(folder / TARGETS_TYPES, _SHAPE)
    columns = {name: _column(name, entry, folder) for name, entry in content["targets"].items()}
    path = folder / TARGETS_TABLE
    rows = [[plain_cell(cell) for cell in row] for row in read_table(path)]
    header = rows[0] if rows else []
    groups = content.get("groups", {})
    wanted = ["case", "patient", *(name for column in columns.values() for name in _headers(column)), *groups.values()]
    for name in wanted:
        if header.count(name) != 1:
            raise InputError(f"{path} has {header.count(name)} columns {name!r}, expected one: {_AGAIN}")
    if len(rows) < 2:
        raise InputError(f"{path} has no case below its header: {_AGAIN}")
    table = [dict(zip(header, row + [""] * (len(header) - len(row)))) for row in rows[1:]]
    cases = tuple(check_name(row["case"], f"case id in {path}") for row in table)
    if len(set(cases)) < len(cases):
        twice = next(case for case in cases if cases.count(case) > 1)
        raise InputError(f"{path} has two rows for case {twice}: {_AGAIN}")
    return Targets(
        columns=columns,
        cases=cases,
        patients={row["case"]: row["patient"] or row["case"] for row in table},
        groups={name: {row["case"]: row[at] for row in table if row[at]} for name, at in groups.items()},
        numbers={name: _numbers(column, table, path) for name, column in columns.items()},
    )


def _column(name: str, entry: Mapping[str, Any], folder: Path) -> TargetColumn:
    """Return a column of targets.json; its type has as many classes as it needs."""
    path = folder / TARGETS_TYPES
    kinds = [kind for kind in TargetType if kind.value == entry["type"]]
    classes = tuple(entry.get("classes", ()))
    if not kinds:
        raise InputError(
            f"{path} gives target {name} the type {entry['type']!r}, expected one of {', '.join(TargetType)}: {_AGAIN}"
        )
    fits = len(classes) == 2 if kinds[0] is TargetType.BINARY else len(classes) >= 2 if kinds[0].has_classes else True
    if not fits or len(set(classes)) < len(classes):
        raise InputError(f"{path} gives the {kinds[0]} target {name} the classes {list(classes)}: {_AGAIN}")
    return TargetColumn(name, kinds[0], classes, entry.get("unit", ""))


def _headers(column: TargetColumn) -> list[str]:
    return [f"{column.name} time", f"{column.name} event"] if column.type is TargetType.SURVIVAL else [column.name]


def _cells(column: TargetColumn, numbers: NDArray[np.float64]) -> list[str]:
    if column.type.has_classes:
        return ["" if math.isnan(number) else column.classes[int(number)] for number in numbers]
    return ["" if math.isnan(number) else repr(float(number)).removesuffix(".0") for number in numbers]


def _numbers(column: TargetColumn, table: Sequence[Mapping[str, str]], path: Path) -> NDArray[np.float64]:
    headers = _headers(column)
    found = np.full((len(table), len(headers)), np.nan)
    for at, row in enumerate(table):
        for place, header in enumerate(headers):
            if row[header]:
                found[at, place] = _number(column, header, row, path)
    return found


def _number(column: TargetColumn, header: str, row: Mapping[str, str], path: Path) -> float:
    cell = row[header]
    if column.type.has_classes:
        if cell not in column.classes:
            raise InputError(
                f"{path} gives case {row['case']} the {header} {cell!r}, which is none of {', '.join(column.classes)} "
                f"in {TARGETS_TYPES}: {_AGAIN}"
            )
        return float(column.classes.index(cell))
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    is_event = header.endswith(" event") and column.type is TargetType.SURVIVAL
    if not math.isfinite(number) or (is_event and number not in (0, 1)):
        expected = "0 or 1" if is_event else "a number"
        raise InputError(f"{path} gives case {row['case']} the {header} {cell!r}, expected {expected}: {_AGAIN}")
    return number
