"""Scores by group, such as sex, age band, site or scanner, and their differences: the fairness table."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.subject_bootstrap import FEW_PATIENTS, PatientDraws, difference, estimate
from bdfm_nnunet.evaluation.subject_measures import THRESHOLD, measures_of
from bdfm_nnunet.evaluation.subject_scores import RESAMPLES
from bdfm_nnunet.evaluation.subject_units import ScoredUnits

SEVERAL = "several"
"""Group of a patient whose scans lie in different ones, of two scanners for instance."""
MOST_GROUPS = 40
"""A column with more values than this makes no groups."""
FEW_CASES = 5


def group_of_units(units: ScoredUnits, groups: Mapping[str, str]) -> list[str]:
    """Return the group of each unit; empty where it is not known.

    Args:
        units: what is scored.
        groups: case -> group.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn, TargetType
        >>> age, truth = TargetColumn("age", TargetType.CONTINUOUS), np.array([[60.0], [70.0]])
        >>> units = units_of(age, truth, {"age": truth[:, 0]}, patients=["P1", "P2"], cases=["a", "b"])
        >>> group_of_units(units, {"b": "F"})
        ['', 'F']
    """
    found = [{groups[case] for case in cases if groups.get(case)} for cases in units.cases]
    return [next(iter(each)) if len(each) == 1 else SEVERAL if each else "" for each in found]


def score_groups(
    units: ScoredUnits,
    groups: Mapping[str, str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    threshold: float = THRESHOLD,
    reference: str | None = None,
) -> dict[str, Any]:
    """Return the scores of each group and how they differ from those of one, by default the largest.

    All groups are taken from the same draws of patients, so that a patient with scans in two groups counts in both.

    Args:
        units: what is scored.
        groups: case -> group; units without a group are left out and counted.
        resamples: number of bootstrap resamples.
        seed: of the resampling.
        threshold: of a binary target, the same for all groups.
        reference: the group that others are compared with.

    Returns:
        "groups": group -> "n", "patients", "note" and "measures" as of `score_target`; "reference": that group;
        "differences": every other group -> measure -> its score minus the reference's, with interval and p; "unknown":
        number of units without a group.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn, TargetType
        >>> age, truth = TargetColumn("age", TargetType.CONTINUOUS), np.array([[60.0], [70.0], [50.0]])
        >>> predicted = {"age": np.array([61.0, 75.0, 51.0])}
        >>> units = units_of(age, truth, predicted, patients=["P1", "P2", "P3"], cases=["a", "b", "c"])
        >>> found = score_groups(units, {"a": "F", "b": "M", "c": "F"}, resamples=10)
        >>> found["reference"], found["differences"]["M"]["mae"]["value"]
        ('F', 4.0)
    """
    names = np.array(group_of_units(units, groups), dtype=np.str_)
    draws = PatientDraws.of(units.patients, resamples=resamples, seed=seed)
    rows = {name: np.flatnonzero(names == name) for name in sorted(set(names.tolist()) - {""})}
    measures = {name: measures_of(units.taken(places), threshold=threshold) for name, places in rows.items()}
    found = {
        name: {
            "n": len(places),
            "patients": draws.count(places),
            "note": _small(units.taken(places), draws.count(places)),
            "measures": {measure.name: estimate(measure, draws, places) for measure in measures[name]},
        }
        for name, places in rows.items()
    }
    if reference not in found:
        reference = max(found, key=lambda name: draws.count(rows[name]), default=None)
    differences = {
        name: {
            one.name: difference(one, two, draws, {"first": rows[reference], "second": rows[name]})
            for one, two in zip(measures[reference], measures[name])
        }
        for name in found
        if reference is not None and name != reference
    }
    unknown = int((names == "").sum())
    return {"groups": found, "reference": reference, "differences": differences, "unknown": unknown}


def _small(units: ScoredUnits, patients: int) -> str:
    """Say what is too few in a group to conclude anything from it; empty where there is enough."""
    told = [f"small group: {patients} patients"] if patients < FEW_PATIENTS else []
    if units.column.type.has_classes:
        counts = np.bincount(units.classes, minlength=len(units.column.classes))
        few = [f"{count} of {name}" for name, count in zip(units.column.classes, counts) if count < FEW_CASES]
        told += [f"few cases: {', '.join(few)}"] if few else []
    return "; ".join(told)


def bands(values: Mapping[str, float], count: int = 3) -> dict[str, str]:
    """Return the band of each case for a number, so that bands hold about as many cases each.

    Args:
        values: case -> number; NaN has no band.
        count: number of bands.

    Example:
        >>> bands({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, count=2)
        {'a': '1 to 2.5', 'b': '1 to 2.5', 'c': '2.5 to 4', 'd': '2.5 to 4'}
    """
    known = {case: value for case, value in values.items() if np.isfinite(value)}
    if not known:
        return {}
    edges: NDArray[np.float64] = np.unique(np.quantile(list(known.values()), np.linspace(0, 1, count + 1)))
    if len(edges) == 1:
        return dict.fromkeys(known, f"{edges[0]:.4g}")
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
    places = np.clip(np.searchsorted(edges, list(known.values()), side="left") - 1, 0, len(names) - 1)
    return {case: names[place] for case, place in zip(known, places)}
