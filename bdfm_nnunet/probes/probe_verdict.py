"""Scores of a probe's predictions, differences from the baselines, and what they mean in a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdfm_nnunet.evaluation.subject_bootstrap import Array, Measure, PatientDraws, difference, estimate
from bdfm_nnunet.evaluation.subject_measures import measures_of
from bdfm_nnunet.evaluation.subject_units import ScoredUnits
from bdfm_nnunet.probes.feature_baselines import COVARIANCE, LABELS, UNTRAINED
from bdfm_nnunet.targets import TargetType

KIND = "probe"
PRETRAINED = "pre-trained"
HEADLINES = {
    TargetType.BINARY: ("auc", "AUC", 0.5),
    TargetType.MULTICLASS: ("auc", "AUC", 0.5),
    TargetType.ORDINAL: ("weighted_kappa", "weighted kappa", 0.0),
    TargetType.CONTINUOUS: ("r2", "R²", 0.0),
    TargetType.SURVIVAL: ("c_index", "C-index", 0.5),
}
"""Type of a target -> the measure that is compared, its name in words, and what chance gives; more is better."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of all folds together.

    Attributes:
        features: name of the features.
        model: name of the model.
        fraction: of the training cases of each fold.
        training_cases: mean number of them.
        units: what is scored, for each seed; the same cases in the same order.
    """

    features: str
    model: str
    fraction: float
    training_cases: float
    units: tuple[ScoredUnits, ...]

    @property
    def measures(self) -> list[Measure]:
        """The measures of the target, means over the seeds."""
        return [_mean_of(each) for each in zip(*(measures_of(units) for units in self.units), strict=True)]

    @property
    def headline(self) -> Measure:
        """The measure that is compared."""
        wanted = HEADLINES[self.units[0].column.type][0]
        return next(measure for measure in self.measures if measure.name == wanted)


def _mean_of(measures: Sequence[Measure]) -> Measure:
    def compute(weights: Array) -> Array:
        return np.mean([measure.compute(weights) for measure in measures], axis=0)

    return Measure(name=measures[0].name, compute=compute, needs=measures[0].needs, note=measures[0].note)


def rows_of(found: Sequence[Predicted], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return a row with all measures and their intervals for each set of predictions."""
    draws = PatientDraws.of(found[0].units[0].patients, resamples=resamples, seed=seed)
    return [
        {
            "features": each.features,
            "model": each.model,
            "fraction": each.fraction,
            "training_cases": each.training_cases,
            "seeds": len(each.units),
            "uses_labels": each.features == LABELS,
            "measures": {measure.name: estimate(measure, draws) for measure in each.measures},
        }
        for each in found
    ]


def differences(found: Sequence[Predicted], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return the headline of the pre-trained features minus that of each other set, by the same model and fraction."""
    draws = PatientDraws.of(found[0].units[0].patients, resamples=resamples, seed=seed)
    own = {(each.model, each.fraction): each for each in found if each.features == PRETRAINED}
    return [
        {"against": each.features, "model": each.model, "fraction": each.fraction, "measure": each.headline.name,
         **difference(each.headline, own[each.model, each.fraction].headline, draws)}
        for each in found
        if each.features != PRETRAINED
    ]  # fmt: skip


def verdict(found: Sequence[Predicted], compared: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the pre-trained features beat the untrained ones: by the first model, with the most training cases.

    Of two untrained ones the better counts. They are beaten where the interval of the difference lies above 0.
    """
    first = found[0]
    same = {each.features: each for each in found if (each.model, each.fraction) == (first.model, first.fraction)}
    _, words, _ = HEADLINES[first.units[0].column.type]
    values = {name: _value(each) for name, each in same.items()}
    others = [name for name in (UNTRAINED, COVARIANCE) if name in values and np.isfinite(values[name])]
    own = values[PRETRAINED]
    if not np.isfinite(own):
        return f"The {words} is not defined: {first.headline.needs} are needed."
    if not others:
        return f"Whether the pre-trained features ({words} {own:.3f}) beat untrained ones is not known: there are none."
    best = max(others, key=lambda name: values[name])
    gap = next(
        row for row in compared
        if (row["against"], row["model"], row["fraction"]) == (best, first.model, first.fraction)
    )  # fmt: skip
    how = f"{words} {own:.3f} against {values[best]:.3f} of the {best} encoder, {_gap(gap)}, {_setup(first)}"
    return f"{_opening(gap)}: {how}.{_chance(first)}{_simple(values, own, words)}"


def _value(each: Predicted) -> float:
    return float(each.headline.compute(np.ones((1, len(each.units[0]))))[0])


def _opening(gap: Mapping[str, Any]) -> str:
    low, high = gap["interval"] or (-np.inf, np.inf)
    if low > 0:
        return "The pre-trained features beat the untrained ones"
    if high < 0:
        return "The pre-trained features are worse than the untrained ones"
    return "The pre-trained features do not beat the untrained ones"


def _gap(gap: Mapping[str, Any]) -> str:
    if gap["interval"] is None:
        return f"difference {gap['value']:+.3f} without an interval"
    return "difference {:+.3f} (95 % interval {:+.3f} to {:+.3f})".format(gap["value"], *gap["interval"])


def _setup(each: Predicted) -> str:
    units = each.units[0]
    people = f"{len(units)} cases of {len(set(units.patients))} patients"
    return f"{each.model} model on {each.fraction:.0%} of the training cases, {people} out of fold"


def _chance(each: Predicted) -> str:
    """Say where the pre-trained features are not above chance."""
    _, _, chance = HEADLINES[each.units[0].column.type]
    draws = PatientDraws.of(each.units[0].patients, resamples=1000, seed=0)
    interval = estimate(each.headline, draws)["interval"]
    return f" Their interval holds what chance gives ({chance:g})." if interval and interval[0] <= chance else ""


def _simple(values: Mapping[str, float], own: float, words: str) -> str:
    """Name the simple baselines that do at least as well."""
    better = {
        name: value for name, value in values.items()
        if name not in (PRETRAINED, UNTRAINED, COVARIANCE) and np.isfinite(value) and value >= own
    }  # fmt: skip
    if not better:
        return ""
    named = ", ".join(
        f"{name} {value:.3f}{' (which use the labels)' if name == LABELS else ''}" for name, value in better.items()
    )
    return f" Simple numbers do at least as well: {named}."


def table(result: Mapping[str, Any]) -> str:
    """Return the scores as text: a line per features and fraction, a column per model.

    Args:
        result: `extra` of the result.
    """
    rows = result["scores"]
    name, words, _ = HEADLINES[TargetType(result["target"]["type"])]
    models = list(dict.fromkeys(row["model"] for row in rows))
    keys = list(dict.fromkeys((row["features"], row["fraction"]) for row in rows))
    found = {(row["features"], row["fraction"], row["model"]): row["measures"][name] for row in rows}
    width = max(len(f"{features}{'*' if features == LABELS else ''}") for features, _ in keys)
    lines = [f"{words:<{width}}  cases" + "".join(f"  {model:^22}" for model in models)]
    for features, fraction in keys:
        cells = "".join(f"  {_cell(found[features, fraction, model]):^22}" for model in models)
        lines.append(f"{features + ('*' if features == LABELS else ''):<{width}}  {fraction:>5.0%}{cells}".rstrip())
    starred = ["* from the labels, not from the images alone"] if any(key[0] == LABELS for key in keys) else []
    return "\n".join([*lines, *starred])


def _cell(scores: Mapping[str, Any]) -> str:
    if scores["value"] is None:
        return "not defined"
    low, high = scores["interval"] or (None, None)
    return f"{scores['value']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")
