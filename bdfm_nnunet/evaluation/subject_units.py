"""What is scored of a target: the true and predicted values of the cases, or of patients with several scans."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import TargetColumn, TargetType
from bdfm_nnunet.targets.column_requests import CLIPS

Array = NDArray[np.float64]
Aggregation = Literal["mean", "median", "max", "none"]
AGGREGATIONS = ("mean", "median", "max", "none")
_TOLERANCE = 0.01  # probabilities may be rounded


@dataclass(frozen=True, kw_only=True)
class ScoredUnits:
    """True and predicted values of one target; a unit is a case, or the scans of a patient with one true value.

    Attributes:
        column: the target.
        truth: (N, 1), or time and event (N, 2); no NaN.
        values: probability of the positive class, value or risk, (N,); empty for several classes.
        probabilities: of each class, (N, K); None if the table names classes alone, or for other types.
        chosen: number of the predicted class, (N,), for several classes.
        survival: chance to be without event at `times`, (N, T).
        counts: how much each unit counts in a mean with others of its patient, (N,), such as the clips of a run; empty
            where all count alike.
        times: (T,), ascending.
        patients: patient of each unit.
        cases: the cases of each unit.
        left_out: why cases are not scored -> how many.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS)
        >>> truth, values = np.array([[60.0], [70.0]]), np.array([61.0, 68.0])
        >>> ids = {"patients": ("P1", "P2"), "cases": (("a",), ("b",))}
        >>> ScoredUnits(column=age, truth=truth, values=values, **ids).taken([1]).patients
        ('P2',)
    """

    column: TargetColumn
    truth: Array
    values: Array = field(default_factory=lambda: np.zeros(0))
    probabilities: Array | None = None
    chosen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    survival: Array = field(default_factory=lambda: np.zeros((0, 0)))
    times: Array = field(default_factory=lambda: np.zeros(0))
    counts: Array = field(default_factory=lambda: np.zeros(0))
    patients: tuple[str, ...]
    cases: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.truth)

    def taken(self, rows: Sequence[int] | NDArray[np.int64]) -> "ScoredUnits":
        """Return some of the units."""
        rows = np.asarray(rows, dtype=np.int64)
        parts = {
            name: getattr(self, name) for name in ("truth", "values", "probabilities", "chosen", "survival", "counts")
        }
        return replace(
            self,
            **{name: part[rows] if part is not None and len(part) else part for name, part in parts.items()},
            patients=tuple(self.patients[row] for row in rows),
            cases=tuple(self.cases[row] for row in rows),
        )

    @property
    def classes(self) -> NDArray[np.int64]:
        """Return the number of each unit's true class, (N,)."""
        return self.truth[:, 0].astype(np.int64)


def units_of(
    column: TargetColumn,
    truth: Array,
    predicted: Mapping[str, NDArray[Any]],
    *,
    patients: Sequence[str],
    cases: Sequence[str] | None = None,
    counts: NDArray[Any] | None = None,
    aggregate: Aggregation = "none",
    source: str = "the table of predictions",
) -> ScoredUnits:
    """Return what is scored of a target: cases with a true value and a prediction.

    With `aggregate` the predictions for scans of one patient with the same true value become one; scans with different
    true values (age at two visits, a diagnosis that has changed) stay apart, and the bootstrap keeps them together.

    Args:
        column: the target.
        truth: (N, 1), or time and event (N, 2); NaN is missing.
        predicted: the target's columns of a prediction table, in the order of the cases.
        patients: patient of each case.
        cases: case ids; by default their numbers.
        counts: how much each case counts in a mean, (N,), above 0; by default all alike.
        aggregate: how probabilities, values and risks of several scans become one.
        source: name of the predictions in messages.

    Raises:
        InputError: the columns do not fit the type of the target, or a count is no number above 0.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS)
        >>> truth, predicted = np.array([[60.0], [60.0], [np.nan]]), {"age": np.array([58.0, 64.0, 70.0])}
        >>> units = units_of(age, truth, predicted, patients=["P1", "P1", "P2"], aggregate="mean")
        >>> units.values.tolist(), units.left_out
        ([61.0], {'no true value': 1})
    """
    ids = [str(number) for number in range(len(truth))] if cases is None else list(cases)
    counts = np.zeros(0) if counts is None else _counts(counts, ids, source)
    parts = _parts(column, predicted, ids, source)
    unknown = np.isnan(truth).any(axis=1)
    missing = ~unknown & parts.pop("missing")
    left_out = {"no true value": int(unknown.sum()), "no prediction": int(missing.sum())}
    units = ScoredUnits(
        column=column,
        truth=truth,
        counts=counts,
        **parts,
        patients=tuple(patients),
        cases=tuple((case,) for case in ids),
        left_out={why: count for why, count in left_out.items() if count},
    ).taken(np.flatnonzero(~unknown & ~missing))
    return units if aggregate == "none" else _aggregated(units, aggregate)


# ------------------------------------------------------------------------------------------- reading of the columns


def _parts(
    column: TargetColumn, predicted: Mapping[str, NDArray[Any]], cases: Sequence[str], source: str
) -> dict[str, Any]:
    """Return the arrays of `ScoredUnits`, and "missing": which cases have no prediction."""
    if column.type in (TargetType.MULTICLASS, TargetType.ORDINAL):
        return _class_parts(column, predicted, cases, source)
    values = _numbers(column.name, predicted[column.name], source)
    if column.type is TargetType.BINARY:
        _check_range(column.name, values, cases, source)
    if column.type is not TargetType.SURVIVAL:
        return {"values": values, "missing": np.isnan(values)}
    times, survival = _survival(column.name, predicted, cases, source)
    return {
        "values": values,
        "survival": survival,
        "times": times,
        "missing": np.isnan(values) | np.isnan(survival).any(axis=1),
    }


def _counts(values: NDArray[Any], cases: Sequence[str], source: str) -> Array:
    counts = _numbers(CLIPS, values, source)
    if (wrong := np.flatnonzero(~(counts > 0))).size:
        raise InputError(
            f"{source} gives case {cases[wrong[0]]} {counts[wrong[0]]:g} clips, expected a number above 0: write the "
            "number of clips of each run, or leave the column out"
        )
    return counts


def _numbers(name: str, values: NDArray[Any], source: str) -> Array:
    if values.dtype.kind not in "fiu":
        shown = next((str(value) for value in values if str(value)), "")
        raise InputError(f"{source} has texts like {shown!r} in the column {name}, expected numbers: predict it anew")
    return values.astype(np.float64)


def _check_range(name: str, values: Array, cases: Sequence[str], source: str) -> None:
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if wrong.size:
        raise InputError(
            f"{source} gives case {cases[wrong[0]]} the {name} {values[wrong[0]]:g}, expected a probability from 0 to "
            "1: write probabilities, not logits or class numbers"
        )


def _survival(
    name: str, predicted: Mapping[str, NDArray[Any]], cases: Sequence[str], source: str
) -> tuple[Array, Array]:
    found: dict[float, Array] = {}
    for key, values in predicted.items():
        if key.startswith(f"{name}@"):
            time = _time(key, name, source)
            found[time] = _numbers(key, values, source)
            _check_range(key, found[time], cases, source)
    times = np.array(sorted(found))
    return times, np.stack([found[time] for time in times], axis=1) if found else np.zeros((len(cases), 0))


def _time(key: str, name: str, source: str) -> float:
    try:
        time = float(key.removeprefix(f"{name}@"))
    except ValueError:
        time = math.nan
    if not 0 <= time < math.inf:
        raise InputError(f"{source} has a column {key!r}, expected {name}@TIME with a number: rename it")
    return time


def _class_parts(
    column: TargetColumn, predicted: Mapping[str, NDArray[Any]], cases: Sequence[str], source: str
) -> dict[str, Any]:
    named = _named_classes(column, predicted[column.name], cases, source)
    keys = [f"{column.name}={name}" for name in column.classes]
    present = [key for key in keys if key in predicted]
    if not present:
        return {"probabilities": None, "chosen": np.maximum(named, 0), "missing": named < 0}
    if lacking := [key for key in keys if key not in predicted]:
        raise InputError(f"{source} has no column {lacking[0]!r}, though it has {present[0]!r}: predict all classes")
    probabilities = np.stack([_numbers(key, predicted[key], source) for key in keys], axis=1)
    for at, key in enumerate(keys):
        _check_range(key, probabilities[:, at], cases, source)
    wrong = np.flatnonzero(np.abs(probabilities.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.size:
        raise InputError(
            f"{source} gives case {cases[wrong[0]]} probabilities of {column.name} whose sum is "
            f"{probabilities[wrong[0]].sum():g}, expected 1: write the probability of every class"
        )
    missing = np.isnan(probabilities).any(axis=1)
    likeliest = np.where(np.isnan(probabilities), -1, probabilities).argmax(axis=1)
    return {"probabilities": probabilities, "chosen": np.where(named < 0, likeliest, named), "missing": missing}


def _named_classes(column: TargetColumn, values: NDArray[Any], cases: Sequence[str], source: str) -> NDArray[np.int64]:
    """Return the numbers of the classes that are named, -1 for an empty cell."""
    numbers = {name: number for number, name in enumerate(column.classes)}
    texts = ["" if _is_nan(value) else _text(value) for value in values.tolist()]
    for case, text in zip(cases, texts):
        if text and text not in numbers:
            raise InputError(
                f"{source} gives case {case} the {column.name} {text!r}, expected one of "
                f"{', '.join(column.classes)}: name the classes as targets.json does"
            )
    return np.array([numbers.get(text, -1) for text in texts], dtype=np.int64)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


# ------------------------------------------------------------------------------------------------------ aggregation


def _aggregated(units: ScoredUnits, how: Aggregation) -> ScoredUnits:
    ways: dict[str, Callable[..., Any]] = {"median": np.median, "max": np.max}
    places: dict[tuple[Any, ...], list[int]] = {}
    for row, patient in enumerate(units.patients):
        places.setdefault((patient, *units.truth[row].tolist()), []).append(row)
    groups = list(places.values())
    merged = units.taken([rows[0] for rows in groups])
    if len(merged) == len(units):
        return units

    def combined(part: Array, rows: list[int]) -> Any:
        if how == "mean":
            return np.average(part[rows], axis=0, weights=units.counts[rows] if len(units.counts) else None)
        return ways[how](part[rows], axis=0)

    def joined(part: Array) -> Array:
        return np.array([combined(part, rows) for rows in groups]) if len(part) else part

    probabilities = None if units.probabilities is None else joined(units.probabilities)
    if probabilities is not None:
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    chosen = [_chosen(units, rows, None if probabilities is None else probabilities[at])
              for at, rows in enumerate(groups)] if len(units.chosen) else units.chosen  # fmt: skip
    return replace(
        merged,
        values=joined(units.values),
        survival=joined(units.survival),
        probabilities=probabilities,
        chosen=np.array(chosen, dtype=np.int64),
        cases=tuple(tuple(case for row in rows for case in units.cases[row]) for rows in groups),
    )


def _chosen(units: ScoredUnits, rows: Sequence[int], probabilities: Array | None) -> int:
    """Return the class of several scans: the one they agree on, else the likeliest or, without that, most frequent."""
    named = units.chosen[list(rows)]
    if probabilities is None or (named == named[0]).all():
        return int(np.bincount(named, weights=units.counts[list(rows)] if len(units.counts) else None).argmax())
    return int(probabilities.argmax())
