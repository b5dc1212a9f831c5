"""From scores per case to a mean with its uncertainty."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Summary:
    """Mean and median over cases, with the bootstrap interval of the mean.

    `undefined` cases, where the score does not exist (NaN), are no part of it; without any other all is NaN.
    """

    mean: float
    low: float
    high: float
    median: float
    cases: int
    undefined: int = 0

    def as_dict(self) -> dict[str, float]:
        """The same as a plain dictionary, for JSON."""
        return asdict(self)


def summarise(scores: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000) -> Summary:
    """Mean, median and the percentile bootstrap interval of the mean over cases.

    The cases are drawn anew with replacement `resamples` times; the interval holds the central `level` of the means.
    It speaks of the spread over cases alone, not of another training run. One case gives an interval without width.

    Args:
        scores: one score per case; NaN where it does not exist.
        seed: seed of the resampling.
        level: share of the means inside the interval.
        resamples: number of resamples.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("expected at least one score, got none")
    undefined = int(np.isnan(values).sum())
    values = values[~np.isnan(values)]
    if not values.size:
        nothing = float("nan")
        return Summary(nothing, nothing, nothing, nothing, 0, undefined)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(values.size, size=(resamples, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Summary(float(values.mean()), float(low), float(high), float(np.median(values)), int(values.size), undefined)


def summarise_change(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Summary:
    """Difference of two means over the same cases, and its percentile bootstrap interval.

    A case may have a score on one side alone (NaN on the other): it counts in the mean of that side, so a change that
    makes scores appear or vanish stays in the estimate. Cases are drawn for both sides together.

    Args:
        before: one score per case; NaN where it does not exist.
        after: the same cases after the change.
        seed: as in `summarise`.
        level: as in `summarise`.
        resamples: as in `summarise`.

    Returns:
        Difference of means and its interval, the median change of cases with both scores, the number of cases with a
        score on any side, and how many of these have it on one side alone.
    """
    both = np.array([before, after], dtype=np.float64)
    both = both[:, np.isfinite(both).any(axis=0)]
    nothing, cases = float("nan"), both.shape[1]
    if not np.isfinite(both).any(axis=1).all():
        return Summary(nothing, nothing, nothing, nothing, 0, cases)
    draws = np.random.default_rng(seed).integers(cases, size=(resamples, cases))
    first, second = (_means(side, draws) for side in both)
    low, high = np.nanquantile(second - first, [(1 - level) / 2, (1 + level) / 2])
    changes = both[1] - both[0]
    paired = changes[np.isfinite(changes)]
    mean = float(np.nanmean(both[1]) - np.nanmean(both[0]))
    median = float(np.median(paired)) if paired.size else nothing
    return Summary(mean, float(low), float(high), median, cases, cases - paired.size)


def _means(scores: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the scores that exist in each draw; NaN where none does."""
    known = np.isfinite(scores)
    sums, counts = np.where(known, scores, 0.0)[draws].sum(axis=1), known[draws].sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(draws), np.nan), where=counts > 0)
