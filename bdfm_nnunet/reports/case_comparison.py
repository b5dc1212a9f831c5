"""Cases of one or several runs side by side: their scores, worst first, and differences between runs with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import Summary, summarise_change

PAIRED = "95 % percentile bootstrap of the difference of means, cases drawn with replacement for both runs together"
"""The interval of `Comparison.change`, in words."""
_MOST_DRAWS = 20_000_000  # 160 MB at a time
_PREFERRED = "dice"
Scores = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """The same cases of all runs that have scores.

    Attributes:
        runs: names, the first is the one compared with.
        regions: that all runs have.
        measure: the score that sorts.
        measures: all scores that all runs have, volumes aside.
        cases: worst first, by the mean over regions of the last run's score; cases without a score come last.
        scores: run -> case -> region -> measure -> value, None where undefined.
        left_out: number of cases that not all runs have.
    """

    runs: tuple[str, ...]
    regions: tuple[str, ...]
    measure: str
    measures: tuple[str, ...]
    cases: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Scores]] = field(repr=False)
    left_out: int = 0

    def value(self, run: str, case: str, region: str, measure: str = "") -> float:
        """Return a score; NaN where it is undefined."""
        found = self.scores[run][case][region].get(measure or self.measure)
        return float("nan") if found is None else float(found)

    def mean(self, run: str, case: str) -> float:
        """Return the mean over regions of a case's score; NaN where no region has one."""
        values = np.array([self.value(run, case, region) for region in self.regions])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def column(self, run: str, region: str, measure: str = "") -> list[float]:
        """Return a score of all cases, in their order."""
        return [self.value(run, case, region, measure) for case in self.cases]

    def change(self, run: str, region: str, measure: str = "") -> Summary:
        """Return the difference of a run from the first, with the interval `PAIRED`."""
        before, after = self.column(self.runs[0], region, measure), self.column(run, region, measure)
        return summarise_change(before, after, resamples=min(10_000, max(1_000, _MOST_DRAWS // len(self.cases))))

    def changes(self, run: str, region: str) -> list[float]:
        """Return the difference of each case."""
        return [b - a for a, b in zip(self.column(self.runs[0], region), self.column(run, region))]


def more_is_worse(measure: str) -> bool:
    """Return whether a larger value of a score is a worse one.

    >>> more_is_worse("hd95_mm"), more_is_worse("dice")
    (True, False)
    """
    return measure.endswith("_mm") or "false" in measure


def compare_cases(results: Mapping[str, Mapping[str, Any]], *, measure: str | None = None) -> Comparison:
    """Put the cases of several results side by side.

    Args:
        results: name of a run -> its scores, as in `RunResult.scores`; at least one.
        measure: the score that sorts; by default Dice, or else the first.

    Raises:
        InputError: the runs have no case, region or score in common, were scored by different versions, or lack
            `measure`.
    """
    names = tuple(results)
    versions = {name: scores["metrics"] for name, scores in results.items()}
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{name} by {version}" for name, version in versions.items())
        raise InputError(f"the runs are scored by different versions ({told}): score them anew with one --metrics")
    regions = _in_all([scores["summary"] for scores in results.values()])
    rows = {name: {row["case"]: row["regions"] for row in scores["cases"]} for name, scores in results.items()}
    cases = _in_all(list(rows.values()))
    measures = _in_all([scores["summary"][region] for scores in results.values() for region in regions])
    if not (regions and cases and measures):
        raise InputError(f"{' and '.join(names)} have no case, region and score in common: name runs of the same cases")
    chosen = measure or next((name for name in measures if name.endswith(_PREFERRED)), measures[0])
    if chosen not in measures:
        raise InputError(f"no score {chosen!r} in the runs: choose --measure from {', '.join(measures)}")
    left_out = len(set().union(*rows.values())) - len(cases)
    found = Comparison(names, tuple(regions), chosen, tuple(measures), tuple(cases), rows, left_out)
    return Comparison(names, tuple(regions), chosen, tuple(measures), tuple(_sorted(found)), rows, left_out)


def _sorted(found: Comparison) -> list[str]:
    sign = -1 if more_is_worse(found.measure) else 1
    means = {case: sign * found.mean(found.runs[-1], case) for case in found.cases}
    return sorted(found.cases, key=lambda case: (np.isnan(means[case]), means[case], case))


def _in_all(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that all tables have, in the order of the first."""
    return [key for key in (tables[0] if tables else ()) if all(key in table for table in tables)]


def worst_and_best(cases: Sequence[str], most: int) -> list[str]:
    """Return at most so many cases from both ends, in their order; the worse half is the larger.

    >>> worst_and_best(["a", "b", "c", "d", "e"], 3)
    ['a', 'b', 'e']
    """
    if len(cases) <= most:
        return list(cases)
    best = most // 2
    return [*cases[: most - best], *(cases[-best:] if best else ())]
