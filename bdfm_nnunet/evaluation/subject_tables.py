"""The table of predictions for subjects, `subjects.csv`: one row per case.

Columns are `case`, `patient` and, for a target NAME,

- binary: `NAME`, the probability of the positive class;
- multi-class or ordinal: `NAME`, the predicted class by name, and `NAME=CLASS`, the probability of each class;
- continuous: `NAME`, the value in its unit;
- survival: `NAME`, a risk (larger means earlier), and `NAME@T`, the probability to be without event at time T;
- of an ensemble: `NAME spread`, the standard deviation over its members;
- of runs: `clips`, how many clips of the run its predictions are the mean of.

An empty cell is a missing prediction.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.survival_curves import at_common_times
from bdfm_nnunet.table_files import plain_cell, read_table, write_table
from bdfm_nnunet.targets.column_requests import CLIPS, SPREAD

CASE, PATIENT = "case", "patient"
_MISSING = {"", "nan", "na", "n/a", "none"}
_AGAIN = "write the table with `bdfm predict-subjects`, or like it"


@dataclass(frozen=True)
class Predictions:
    """Predictions for cases.

    Attributes:
        cases: case ids, each once.
        patients: patient of each case.
        columns: name of a column to its values in the order of the cases: numbers (NaN is missing) or, for predicted
            classes, texts (empty is missing).
        source: where they come from, for messages.

    Example:
        >>> Predictions(("a", "b"), ("P1", "P1"), {"age": np.array([64.0, 66.0])}).of("age")
        {'age': array([64., 66.])}
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    columns: Mapping[str, NDArray[Any]]
    source: str = field(default="the table of predictions", compare=False)

    def of(self, target: str) -> dict[str, NDArray[Any]]:
        """Return the columns of one target, its spread aside.

        Raises:
            InputError: there are none.
        """
        if target not in self.columns:
            raise InputError(
                f"{self.source} has no column {target!r}, only {', '.join(self.columns) or 'ids'}: predict this "
                "target, or name another with --target"
            )
        return {name: values for name, values in self.columns.items() if name == target or _part_of(name, target)}

    def taken(self, cases: Sequence[str]) -> "Predictions":
        """Return the predictions for some of the cases, in the order named."""
        place = {case: number for number, case in enumerate(self.cases)}
        rows = [place[case] for case in cases]
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Predictions(tuple(cases), tuple(self.patients[row] for row in rows), columns, self.source)


def _part_of(name: str, target: str) -> bool:
    return name.startswith((f"{target}=", f"{target}@"))


def write_predictions(path: str | os.PathLike[str], predictions: Predictions) -> None:
    """Write a table of predictions, whole or not at all.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> write_predictions("subjects.csv", Predictions(("a",), ("P1",), {"idh": np.array([0.25])}))
        >>> read_predictions("subjects.csv").columns["idh"].tolist()
        [0.25]
    """
    rows: list[list[Any]] = [[CASE, PATIENT, *predictions.columns]]
    columns = [values.tolist() for values in predictions.columns.values()]
    for number, ids in enumerate(zip(predictions.cases, predictions.patients)):
        rows.append([*ids, *(_cell(values[number]) for values in columns)])
    write_table(path, rows)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def per_patient(predictions: Predictions) -> Predictions:
    """Return one row per patient, named by the patient: the mean over his or her cases, or over all clips of runs.

    The class of several is that of the largest mean probability.

    Example:
        >>> table = Predictions(("a", "b", "c"), ("P1", "P1", "P2"), {"age": np.array([64.0, 66.0, 70.0])})
        >>> per_patient(table).cases, per_patient(table).columns["age"]
        (('P1', 'P2'), array([65., 70.]))
    """
    patients = tuple(dict.fromkeys(predictions.patients))
    rows = [[at for at, each in enumerate(predictions.patients) if each == patient] for patient in patients]
    counts = predictions.columns.get(CLIPS, np.ones(len(predictions.cases)))

    def means(values: NDArray[Any]) -> NDArray[Any]:
        return np.array([np.average(values[row], weights=counts[row]) for row in rows])

    columns: dict[str, NDArray[Any]] = {}
    for name, values in predictions.columns.items():
        if name == CLIPS:
            columns[name] = np.array([values[row].sum() for row in rows])
        elif values.dtype.kind == "f":
            columns[name] = means(values)
        else:
            parts = {key.removeprefix(f"{name}="): part for key, part in predictions.of(name).items() if key != name}
            chances = np.stack([means(part) for part in parts.values()])
            columns[name] = np.array([*parts])[chances.argmax(0)]
    return Predictions(patients, patients, columns, predictions.source)


def read_predictions(*paths: str | os.PathLike[str]) -> Predictions:
    """Read tables of predictions; those of several folds become one.

    Survival at different times is brought to common ones, see `at_common_times`; a spread that only some tables have,
    those of ensembles, is left out.

    Args:
        paths: tables with the same columns and different cases. Without a column `patient` each case is a patient.

    Raises:
        InputError: a file is no such table, a case is there twice, or the tables differ in their columns.

    Example:
        >>> for name, case in (("fold_0.csv", "a"), ("fold_1.csv", "b")):
        ...     write_predictions(name, Predictions((case,), (case,), {"idh": np.array([0.25])}))
        >>> read_predictions("fold_0.csv", "fold_1.csv").cases
        ('a', 'b')
    """
    tables = _alike([_read(path) for path in paths])
    first = tables[0]
    seen: dict[str, str] = {}
    for table in tables:
        if set(table.columns) != set(first.columns):
            raise InputError(
                f"{table.source} and {first.source} differ in their columns "
                f"({', '.join(sorted(set(table.columns) ^ set(first.columns)))}): give tables of one kind of model"
            )
        for case in table.cases:
            if case in seen:
                where = f"{table.source} twice" if seen[case] == table.source else f"{seen[case]} and {table.source}"
                raise InputError(f"case {case} is in {where}: give each case one row, as out-of-fold tables have it")
            seen[case] = table.source
    return Predictions(
        tuple(seen),
        tuple(patient for table in tables for patient in table.patients),
        {name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns},
        ", ".join(table.source for table in tables),
    )


def _alike(tables: Sequence[Predictions]) -> list[Predictions]:
    """Return tables with the same times of survival, and with a spread only where all have it."""
    columns = at_common_times([table.columns for table in tables])
    shared = set(columns[0]).intersection(*columns)
    kept = [{n: values for n, values in each.items() if n in shared or not n.endswith(SPREAD)} for each in columns]
    return [replace(table, columns=each) for table, each in zip(tables, kept)]


def _read(path: str | os.PathLike[str]) -> Predictions:
    rows = [[plain_cell(cell) for cell in row] for row in read_table(path)]
    header = rows[0] if rows else []
    _check_header(header, path)
    if len(rows) < 2:
        raise InputError(f"{path} has no case below its header: {_AGAIN}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(f"{path} has {len(row)} cells in row {number}, expected {len(header)}: {_AGAIN}")
    columns = {name: [row[at] for row in rows[1:]] for at, name in enumerate(header)}
    cases = columns.pop(CASE)
    if "" in cases:
        raise InputError(f"{path} names no case in row {cases.index('') + 2}: {_AGAIN}")
    patients = [patient or case for patient, case in zip(columns.pop(PATIENT, cases), cases)]
    values = {name: _values(name, cells, header, cases, path) for name, cells in columns.items()}
    return Predictions(tuple(cases), tuple(patients), values, str(path))


def _check_header(header: Sequence[str], path: str | os.PathLike[str]) -> None:
    if CASE not in header:
        raise InputError(f"{path} has no column `case` in its first row ({', '.join(header[:4]) or 'empty'}): {_AGAIN}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}: {_AGAIN}")


def _values(
    name: str, cells: Sequence[str], header: Sequence[str], cases: Sequence[str], path: str | os.PathLike[str]
) -> NDArray[Any]:
    """Return numbers, or texts for the names of classes (those of numbers too, beside columns of probabilities)."""
    named = any(other.startswith(f"{name}=") for other in header)
    words = [cell for cell in cells if cell.lower() not in _MISSING and _number(cell) is None]
    is_probability = "=" in name or "@" in name or name.endswith(SPREAD)
    if named or (len(words) == sum(cell.lower() not in _MISSING for cell in cells) and words and not is_probability):
        return np.array(cells, dtype=np.str_)
    numbers = [math.nan if cell.lower() in _MISSING else _number(cell) for cell in cells]
    for case, cell, number in zip(cases, cells, numbers):
        if number is None:
            raise InputError(
                f"{path} gives case {case} the {name} {cell!r}, expected a number with a point for decimals, or "
                "nothing: correct the cell, or write the table anew"
            )
    return np.array(numbers, dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
