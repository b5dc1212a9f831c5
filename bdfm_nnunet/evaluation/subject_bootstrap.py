"""Bootstrap over patients for measures that are no mean over cases, such as the area under a ROC curve.

A resample is a weight per case: how often its patient was drawn. Measures take the weights of all resamples at once, so
that thousands of them need no loop.

Shapes: R resamples, N cases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.crossed_bootstrap import drawn_counts, patient_numbers

Array = NDArray[np.float64]
LEVEL = 0.95
FEW_PATIENTS = 20
"""Below this number of patients, an interval says that it is one of few."""
_MOST_NUMBERS = 4_000_000  # weights that are handed over at once: 32 MB
_FEWEST_DEFINED = 0.5

PATIENT_INTERVAL = "95 % percentile bootstrap, patients drawn with replacement, all scans of a patient together"
"""The interval of `estimate`, in words."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of some cases.

    Attributes:
        name: name in tables and files.
        compute: maps weights (R, N) to values (R,), NaN where it is not defined.
        needs: what it needs to be defined, to complete "it needs ...".
        note: what a reader must know of the value; a sentence without its full stop.

    Example:
        >>> errors = np.array([1.0, 3.0])
        >>> mae = Measure(name="mae", compute=lambda w: w @ errors / w.sum(axis=1), needs="a case")
        >>> mae.compute(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist()
        [2.0, 1.0]
    """

    name: str
    compute: Callable[[Array], Array]
    needs: str
    note: str = ""


@dataclass(frozen=True)
class PatientDraws:
    """Resamples of patients; two measures of the same draws are paired.

    Attributes:
        patients: patient of each case.
        resamples: number of resamples.
        seed: of the draws.
        counts: how often each patient is drawn, (R, patients).
        numbers: number of each case's patient, (N,).

    Example:
        >>> draws = PatientDraws.of(["P1", "P1", "P2"], resamples=4, seed=0)
        >>> bool((draws.weights()[:, 0] == draws.weights()[:, 1]).all())
        True
    """

    patients: tuple[str, ...]
    resamples: int
    seed: int
    counts: Array = field(repr=False)
    numbers: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, patients: Sequence[str], *, resamples: int, seed: int) -> "PatientDraws":
        """Draw the patients of some cases; the same patients, number and seed give the same draws."""
        numbers = patient_numbers(patients, len(patients))
        count = int(numbers.max()) + 1 if len(numbers) else 0
        generator = np.random.default_rng(seed)
        counts = drawn_counts(generator, count, resamples) if count else np.zeros((resamples, 0))
        return cls(tuple(patients), resamples, seed, counts, numbers)

    def weights(self, rows: NDArray[np.int64] | None = None) -> Array:
        """Return the weights of the cases, or of those at `rows`, (R, N)."""
        return self.counts[:, self.numbers if rows is None else self.numbers[rows]]

    def count(self, rows: NDArray[np.int64] | None = None) -> int:
        """Return the number of patients, or of those of the cases at `rows`."""
        return len(np.unique(self.numbers if rows is None else self.numbers[rows]))

    def values(self, measure: Measure, rows: NDArray[np.int64] | None = None) -> Array:
        """Return a measure of the cases at `rows` in every resample, (R,)."""
        size = len(self.numbers) if rows is None else len(rows)
        step = max(1, _MOST_NUMBERS // max(size, 1))
        columns = self.numbers if rows is None else self.numbers[rows]
        parts = [
            measure.compute(self.counts[start : start + step][:, columns]) for start in range(0, self.resamples, step)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)


def value_of(measure: Measure, cases: int) -> float:
    """Return a measure of the cases as they are; NaN if it is not defined.

    Example:
        >>> value_of(Measure(name="cases", compute=lambda w: w.sum(axis=1), needs="nothing"), 3)
        3.0
    """
    return float(measure.compute(np.ones((1, cases)))[0]) if cases else float("nan")


def estimate(measure: Measure, draws: PatientDraws, rows: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return a measure with its interval.

    Resamples in which it is not defined (for instance, an AUC of one class) are left out and counted.

    Args:
        measure: of the cases at `rows`, in that order.
        draws: of the patients of all cases.
        rows: positions of the cases; by default all.

    Returns:
        "value", "interval" (low and high), "n" cases, "patients", "undefined_resamples" and "note". None stands for a
        value or interval that is not defined; the note says why.

    Example:
        >>> errors = np.array([1.0, 2.0, 3.0])
        >>> mae = Measure(name="mae", compute=lambda w: w @ errors / w.sum(axis=1), needs="a case")
        >>> found = estimate(mae, PatientDraws.of(["P1", "P2", "P3"], resamples=100, seed=0))
        >>> found["value"], found["n"], found["interval"][0] < 2 < found["interval"][1]
        (2.0, 3, True)
    """
    cases = len(draws.numbers) if rows is None else len(rows)
    value, patients = value_of(measure, cases), draws.count(rows)
    found: dict[str, Any] = {"value": None, "interval": None, "n": cases, "patients": patients}
    if not np.isfinite(value):
        return {**found, "undefined_resamples": None, "note": f"not defined: it needs {measure.needs}"}
    sampled = draws.values(measure, rows)
    interval, told = interval_of(sampled, patients)
    undefined = int((~np.isfinite(sampled)).sum())
    note = "; ".join(text for text in (measure.note, *told) if text)
    return {**found, "value": value, "interval": interval, "undefined_resamples": undefined, "note": note}


def interval_of(sampled: Array, patients: int) -> tuple[list[float] | None, list[str]]:
    """Return the percentile interval of a measure's values in the resamples, and sentences about it.

    Args:
        sampled: (R,), NaN where it is not defined.
        patients: number of patients drawn.

    Example:
        >>> interval_of(np.array([0.5, 0.5, np.nan]), 30)[0]
        [0.5, 0.5]
        >>> interval_of(np.array([0.5]), 1)
        (None, ['no interval: it needs at least 2 patients'])
    """
    if patients < 2:
        return None, ["no interval: it needs at least 2 patients"]
    defined = sampled[np.isfinite(sampled)]
    if len(defined) < max(1.0, _FEWEST_DEFINED * len(sampled)):
        return None, [f"no interval: only {len(defined)} of {len(sampled)} resamples define it"]
    told = []
    if len(defined) < len(sampled):
        told.append(f"{len(sampled) - len(defined)} of {len(sampled)} resamples do not define it and are left out")
    if patients < FEW_PATIENTS:
        told.append(f"only {patients} patients, so the interval is rough")
    low, high = (float(end) for end in np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    if low == high and len(defined) > 1:
        told.append("all resamples agree, which is a sign of few patients or a ceiling, not of certainty")
    return [low, high], told


def difference(
    first: Measure, second: Measure, draws: PatientDraws, rows: Mapping[str, NDArray[np.int64]] | None = None
) -> dict[str, Any]:
    """Return the difference of two measures, second minus first, with the interval of the paired bootstrap.

    Args:
        first: measure of the cases at `rows["first"]`.
        second: measure of the cases at `rows["second"]`.
        draws: of the patients of all cases.
        rows: positions of the cases of each; by default all for both.

    Returns:
        "value", "interval", "p" (two-sided, from the share of resamples on the other side of 0) and "note".

    Example:
        >>> one, two = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
        >>> measures = [Measure(name="mae", compute=lambda w, e=e: w @ e / w.sum(axis=1), needs="") for e in (one, two)]
        >>> difference(*measures, PatientDraws.of(["P1", "P2", "P3"], resamples=99, seed=0))["value"]
        -0.5
    """
    places = [None if rows is None else rows[name] for name in ("first", "second")]
    sizes = [len(draws.numbers) if place is None else len(place) for place in places]
    values = [value_of(measure, size) for measure, size in zip((first, second), sizes)]
    if not np.isfinite(values).all():
        return {"value": None, "interval": None, "p": None, "note": f"not defined: it needs {first.needs}"}
    sampled = draws.values(second, places[1]) - draws.values(first, places[0])
    interval, told = interval_of(sampled, min(draws.count(place) for place in places))
    p = None if interval is None else _p_value(sampled[np.isfinite(sampled)])
    return {"value": values[1] - values[0], "interval": interval, "p": p, "note": "; ".join(told)}


def _p_value(sampled: Array) -> float:
    """Return twice the smaller share of values at or beyond 0, never 0 (Davison and Hinkley 1997, section 4.2)."""
    sides = ((sampled <= 0).sum(), (sampled >= 0).sum())
    return min(1.0, 2 * (1 + float(min(sides))) / (1 + len(sampled)))
