"""From scores per case to a mean with its uncertainty."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


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
