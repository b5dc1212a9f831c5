"""Intervals of scores over cases and repetitions, which both are samples: the crossed bootstrap."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bdfm_nnunet.evaluation.score_summary import Summary

CROSSED_INTERVAL = "95 % percentile bootstrap of the mean, patients and seeds drawn with replacement"
"""The interval of `summarise_crossed`, in words."""
CROSSED_MEASURE_INTERVAL = "95 % percentile bootstrap, patients and seeds drawn with replacement"
"""The interval of `summarise_crossed_measure`, in words."""
_MOST_NUMBERS = 4_000_000  # weights that are handed over at once: 32 MB

Measured = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A measure of some cases: maps their weights (R, N) to values (R,), NaN where it is not defined."""


def summarise_crossed(
    scores: ArrayLike,
    *,
    patients: Sequence[str] | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Summary:
    """Return the mean over cases and repetitions, with an interval that covers the spread of both.

    The same cases are scored in every repetition, so that rows and columns of a table are drawn, each with replacement
    (Owen 2007, https://doi.org/10.1214/07-AOAS122): a seed with all of its cases, a patient with all of its cases in
    all seeds. The paired difference of two methods is the same of the differences of their scores. One repetition gives
    the spread over cases alone.

    Args:
        scores: (repetitions, cases); NaN where a score is undefined or missing.
        patients: patient of each case, whose cases are drawn together; by default each case is one.
        seed: of the resampling.
        level: share of the means inside the interval.
        resamples: number of resamples.

    Returns:
        Mean, interval and median of all scores, and how many there are.

    Raises:
        ValueError: there are no scores, or they are no table.

    Example:
        >>> change = summarise_crossed([[0.02, 0.04, 0.03], [0.01, 0.05, 0.02]])
        >>> round(change.mean, 3), change.low > 0
        (0.028, True)
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"expected scores of repetitions and cases, got the shape {table.shape}")
    known = np.isfinite(table)
    found = table[known]
    if not found.size:
        nothing = float("nan")
        return Summary(nothing, nothing, nothing, nothing, 0, int(table.size))
    numbers = patient_numbers(patients, table.shape[1])
    rows, drawn = _drawn(table.shape[0], numbers, seed=seed, resamples=resamples)
    columns = drawn[:, numbers]
    sums = np.einsum("rs,sc,rc->r", rows, np.where(known, table, 0.0), columns, optimize=True)
    weights = np.einsum("rs,sc,rc->r", rows, known.astype(np.float64), columns, optimize=True)
    means = sums[weights > 0] / weights[weights > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    undefined = int(table.size - found.size)
    return Summary(float(found.mean()), float(low), float(high), float(np.median(found)), int(found.size), undefined)


def summarise_crossed_measure(
    measures: Sequence[Measured],
    *,
    patients: Sequence[str],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> Summary:
    """Return the mean over repetitions of a measure that is no mean over cases, such as an AUC, with its interval.

    Patients and seeds are drawn as by `summarise_crossed`: in a resample, each drawn repetition is measured on the same
    drawn patients. The paired difference of two methods is the same of the differences of their measures.

    Args:
        measures: of each repetition, on the same cases.
        patients: patient of each case.
        seed: of the resampling.
        level: share of the means inside the interval.
        resamples: number of resamples; those in which no drawn repetition is defined are left out, and where they are
            more than half, the interval is NaN.

    Returns:
        Mean, interval and median over the repetitions, and how many define the measure and how many do not.

    Example:
        >>> errors = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 5.0]])
        >>> maes = [lambda weights, own=own: weights @ own / weights.sum(axis=1) for own in errors]
        >>> summarise_crossed_measure(maes, patients=["P1", "P2", "P3"]).mean
        2.5
    """
    found = np.array([float(measure(np.ones((1, len(patients))))[0]) for measure in measures])
    known = found[np.isfinite(found)]
    if not known.size:
        nothing = float("nan")
        return Summary(nothing, nothing, nothing, nothing, 0, len(found))
    numbers = patient_numbers(patients, len(patients))
    means = _means_of(measures, *_drawn(len(measures), numbers, seed=seed, resamples=resamples), numbers)
    often = means.size >= resamples / 2
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]) if often else (np.nan, np.nan)
    undefined = len(found) - len(known)
    return Summary(float(known.mean()), float(low), float(high), float(np.median(known)), len(known), undefined)


def _means_of(
    measures: Sequence[Measured], rows: NDArray[np.float64], drawn: NDArray[np.float64], numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean over the drawn repetitions in each resample that defines one."""
    step, found = max(1, _MOST_NUMBERS // len(numbers)), []
    for start in range(0, len(drawn), step):
        weights, counts = drawn[start : start + step][:, numbers], rows[start : start + step]
        values = np.stack([measure(weights) for measure in measures], axis=1)
        counts = np.where(np.isfinite(values), counts, 0.0)
        sums = (counts * np.nan_to_num(values)).sum(axis=1)
        found.append(sums[counts.sum(axis=1) > 0] / counts.sum(axis=1)[counts.sum(axis=1) > 0])
    return np.concatenate(found)


def _drawn(
    repetitions: int, numbers: NDArray[np.int64], *, seed: int, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each repetition and each patient is drawn in each resample."""
    generator = np.random.default_rng(seed)
    rows = drawn_counts(generator, repetitions, resamples)
    return rows, drawn_counts(generator, int(numbers.max()) + 1, resamples)


def patient_numbers(patients: Sequence[str] | None, cases: int) -> NDArray[np.int64]:
    """Return the number of the patient of each case, from 0 up; without patients each case is one.

    Raises:
        ValueError: there is not a patient for each case.

    Example:
        >>> patient_numbers(["P2", "P1", "P2"], 3).tolist()
        [1, 0, 1]
    """
    if patients is None:
        return np.arange(cases)
    if len(patients) != cases:
        raise ValueError(f"expected a patient for each of {cases} cases, got {len(patients)}")
    _, numbers = np.unique(np.asarray(list(patients)), return_inverse=True)
    return numbers.reshape(-1)


def drawn_counts(generator: np.random.Generator, count: int, resamples: int) -> NDArray[np.float64]:
    """Return how often each of some things is drawn, (resamples, count).

    Example:
        >>> drawn_counts(np.random.default_rng(0), 5, 2).sum(axis=1).tolist()
        [5.0, 5.0]
    """
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
