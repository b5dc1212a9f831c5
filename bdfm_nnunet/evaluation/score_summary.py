"""Means of scores over cases, with their uncertainty."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTERVAL = "95 % percentile bootstrap of the mean over cases"
"""The interval of `summarise`, in words."""


@dataclass(frozen=True)
class Summary:
    """Mean and median over cases, with the bootstrap interval of the mean.

    Attributes:
        mean: mean over cases with a score; NaN if there are none, like `low`, `high` and `median`.
        low: lower end of the interval.
        high: upper end of the interval.
        median: median over cases with a score.
        cases: number of cases with a score.
        undefined: number of cases without a score (NaN).

    Example:
        >>> summary = summarise([0.8, 0.9, float("nan")])
        >>> round(summary.mean, 3), summary.cases, summary.undefined
        (0.85, 2, 1)
    """

    mean: float
    low: float
    high: float
    median: float
    cases: int
    undefined: int = 0

    def as_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary, for JSON."""
        return asdict(self)


def summarise(scores: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000) -> Summary:
    """Return mean, median and the percentile bootstrap interval of the mean over cases.

    The cases are drawn with replacement `resamples` times; the interval holds the central `level` of the means (Efron
    and Tibshirani 1993, https://doi.org/10.1201/9780429246593). It covers the spread over cases, not that over training
    runs. One case gives an interval of width 0.

    Args:
        scores: one score per case; NaN if undefined.
        seed: seed of the resampling.
        level: share of the means inside the interval.
        resamples: number of resamples.

    Raises:
        ValueError: there are no scores.

    Example:
        >>> summary = summarise([0.91, 0.84, 0.88, 0.42, 0.90])
        >>> f"{summary.mean:.2f} [{summary.low:.2f}, {summary.high:.2f}], median {summary.median:.2f}"
        '0.79 [0.60, 0.90], median 0.88'
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


def summaries_of(rows: Sequence[Mapping[str, Any]], regions: Iterable[str], seed: int) -> dict[str, Any]:
    """Return the summary of each region and measure; volumes, which end in `_mm3`, are no scores.

    Args:
        rows: of each case "regions", by name the scores by measure.
        regions: names of those to summarise.
        seed: of the resampling.

    Example:
        >>> rows = [{"case": name, "regions": {"WT": {"dice": score}}} for name, score in (("a", 0.5), ("b", 0.75))]
        >>> summaries_of(rows, ["WT"], 0)["WT"]["dice"]["mean"]
        0.625
    """
    summaries: dict[str, Any] = {}
    for name in regions:
        scored = [row["regions"][name] for row in rows]
        measures = [measure for measure in scored[0] if not measure.endswith("_mm3")]
        summaries[name] = {m: summarise([s[m] for s in scored], seed=seed).as_dict() for m in measures}
    return summaries


def none_for_nan(value: Any) -> Any:
    """Return nested plain data with None for NaN, which JSON does not have.

    Example:
        >>> none_for_nan({"dice": [0.5, float("nan")]})
        {'dice': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: none_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [none_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def summarise_change(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Summary:
    """Return the difference of two means over the same cases, and its percentile bootstrap interval.

    A case with a score on one side only (NaN on the other) counts in the mean of that side, so the estimate includes
    scores that a change makes appear or vanish. Cases are drawn for both sides together.

    Args:
        before: one score per case; NaN if undefined.
        after: scores of the same cases after the change.
        seed: as in `summarise`.
        level: as in `summarise`.
        resamples: as in `summarise`.

    Returns:
        Difference of means and its interval, the median change of cases with both scores, the number of cases with a
        score on any side, and how many of these have a score on one side only.

    Example:
        >>> change = summarise_change([0.70, 0.80, 0.60], [0.75, 0.82, 0.71])
        >>> round(change.mean, 3), change.low > 0
        (0.06, True)
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
    """Return the mean of the defined scores in each draw; NaN if there are none."""
    known = np.isfinite(scores)
    sums, counts = np.where(known, scores, 0.0)[draws].sum(axis=1), known[draws].sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(draws), np.nan), where=counts > 0)
