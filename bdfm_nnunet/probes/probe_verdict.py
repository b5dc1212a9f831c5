"""Scores of a probe's predictions, differences from the baselines, and what they mean in a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdfm_nnunet.evaluation.subject_bootstrap import Array, Measure, PatientDraws, difference, estimate
from bdfm_nnunet.evaluation.subject_measures import measures_of
from bdfm_nnunet.evaluation.subject_units import ScoredUnits
from bdfm_nnunet.probes.feature_baselines import COVARIANCE, INTENSITY, LABELS, UNTRAINED, VOLUME
from bdfm_nnunet.probes.functional_connectivity import CONNECTIVITY
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

BEATEN, UNDECIDED, WORSE = "beaten", "not beaten", "better"
_IN_WORDS = {UNTRAINED: "the untrained encoder", COVARIANCE: "the untrained encoder with covariance pooling",
             INTENSITY: "intensity statistics", VOLUME: "image volumes", CONNECTIVITY: CONNECTIVITY}  # fmt: skip
_SIMPLE = (INTENSITY, VOLUME, CONNECTIVITY)


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
    name = own_name(found)
    own = {(each.model, each.fraction): each for each in found if each.features == name}
    return [
        {"against": each.features, "model": each.model, "fraction": each.fraction, "measure": each.headline.name,
         **difference(each.headline, own[each.model, each.fraction].headline, draws)}
        for each in found
        if each.features != name
    ]  # fmt: skip


def own_name(found: Sequence[Predicted]) -> str:
    """Return the name of the features that are probed: the pre-trained ones, or else the first."""
    return PRETRAINED if any(each.features == PRETRAINED for each in found) else found[0].features


def verdict(found: Sequence[Predicted], compared: Sequence[Mapping[str, Any]]) -> str:
    """Say which baselines the pre-trained features beat: by the first model, with the most training cases.

    They are asked to beat both untrained encoders and the better of the simple baselines from images. A baseline is
    beaten where the interval of the difference lies above 0.
    """
    first = found[0]
    same = {each.features: each for each in found if (each.model, each.fraction) == (first.model, first.fraction)}
    _, words, _ = HEADLINES[first.units[0].column.type]
    values = {name: _value(each) for name, each in same.items()}
    name = own_name(found)
    own = values.pop(name)
    if not np.isfinite(own):
        return f"The {words} is not defined: {first.headline.needs} are needed."
    said = f"The {f'{name} features' if name == PRETRAINED else f'features of {name}'} ({words} {own:.3f})"
    rivals = rivals_of(values)
    if not rivals:
        return f"Whether {_small(said)} beat any baseline is not known: none was made.{_chance(first)}"
    gaps = {row["against"]: row for row in compared if (row["model"], row["fraction"]) == (first.model, first.fraction)}
    ways = {name: way_of(gaps[name]) for name in rivals}
    told = {
        way: [f"{_IN_WORDS[name]} ({values[name]:.3f}, {_gap(gaps[name])})" for name in rivals if ways[name] == way]
        for way in (BEATEN, UNDECIDED, WORSE)
    }
    missing = _missing(values)
    every = " every baseline:" if len(told[BEATEN]) == len(rivals) and not missing else ""
    return f"{said} {_clauses(told, every)}, {_setup(first)}.{missing}{_chance(first)}{_labels(values, own)}"


def rivals_of(values: Mapping[str, float]) -> list[str]:
    """Return the baselines that must be beaten: both untrained encoders, and the better of the simple ones.

    Volumes of labels are none of them, since an image alone does not give them.

    Example:
        >>> rivals_of({"untrained": 0.6, "intensity statistics": 0.7, "image volumes": 0.8, "label volumes": 0.9})
        ['untrained', 'image volumes']
    """
    simple = [name for name in _SIMPLE if np.isfinite(values.get(name, np.nan))]
    untrained = [name for name in (UNTRAINED, COVARIANCE) if np.isfinite(values.get(name, np.nan))]
    return [*untrained, *([max(simple, key=lambda name: values[name])] if simple else [])]


def way_of(gap: Mapping[str, Any]) -> str:
    """Return whether a baseline is beaten, by the difference from it and its interval."""
    low, high = gap["interval"] or (-np.inf, np.inf)
    return BEATEN if low > 0 else WORSE if high < 0 else UNDECIDED


def _clauses(told: Mapping[str, Sequence[str]], every: str) -> str:
    """Return what is beaten, what is not, and what is better, as one clause."""
    parts = [f"beat{every} {_joined(told[BEATEN], 'and')}"] if told[BEATEN] else []
    if told[UNDECIDED]:
        parts.append(f"{'not' if parts else 'do not beat'} {_joined(told[UNDECIDED], 'or')}")
    if told[WORSE]:
        parts.append(f"are worse than {_joined(told[WORSE], 'and')}")
    return (" but " if told[BEATEN] else " and ").join(parts[:2]) + "".join(f" and {part}" for part in parts[2:])


def _joined(names: Sequence[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _missing(values: Mapping[str, float]) -> str:
    """Name what they were not compared with, though they must beat it."""
    there = {name for name, value in values.items() if np.isfinite(value)}
    lacking = [_IN_WORDS[name] for name in (UNTRAINED, COVARIANCE) if name not in there]
    lacking += [] if there & {*_SIMPLE} else ["a simple baseline"]
    return f" They were not compared with {_joined(lacking, 'and')}." if lacking else ""


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _value(each: Predicted) -> float:
    return float(each.headline.compute(np.ones((1, len(each.units[0]))))[0])


def _gap(gap: Mapping[str, Any]) -> str:
    if gap["interval"] is None:
        return f"difference {gap['value']:+.3f} without an interval"
    return "difference {:+.3f}, 95 % interval {:+.3f} to {:+.3f}".format(gap["value"], *gap["interval"])


def _setup(each: Predicted) -> str:
    units = each.units[0]
    people = f"{len(units)} cases of {len(set(units.patients))} patients"
    return f"by the {each.model} model on {each.fraction:.0%} of the training cases, {people} out of fold"


def _chance(each: Predicted) -> str:
    """Say where the pre-trained features are not above chance."""
    _, _, chance = HEADLINES[each.units[0].column.type]
    draws = PatientDraws.of(each.units[0].patients, resamples=1000, seed=0)
    interval = estimate(each.headline, draws)["interval"]
    return f" Their interval holds what chance gives ({chance:g})." if interval and interval[0] <= chance else ""


def _labels(values: Mapping[str, float], own: float) -> str:
    """Say where volumes of labels do at least as well."""
    value = values.get(LABELS, np.nan)
    return f" The {LABELS}, which use labels, do at least as well: {value:.3f}." if value >= own else ""


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
