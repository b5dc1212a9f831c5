"""Which measures a type of target has, as functions of the weights of resamples."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation import class_measures, survival_measures, value_measures
from bdfm_nnunet.evaluation.class_measures import weighted_mean
from bdfm_nnunet.evaluation.subject_bootstrap import Array, Measure
from bdfm_nnunet.evaluation.subject_units import ScoredUnits
from bdfm_nnunet.targets import TargetType

MEASURES: dict[TargetType, tuple[str, ...]] = {
    TargetType.BINARY: ("auc", "average_precision", "balanced_accuracy", "f1", "brier", "ece"),
    TargetType.MULTICLASS: ("auc", "average_precision", "balanced_accuracy", "f1", "brier", "ece"),
    TargetType.ORDINAL: ("auc", "average_precision", "balanced_accuracy", "f1", "brier", "ece", "weighted_kappa",
                         "mae_classes"),
    TargetType.CONTINUOUS: ("mae", "rmse", "r2", "pearson", "spearman"),
    TargetType.SURVIVAL: ("c_index", "integrated_brier"),
}  # fmt: skip
"""Names of the measures by type; the first is the headline."""

THRESHOLD = 0.5
_BOTH = "cases of both classes"
_SEVERAL = "cases of at least two classes"
_BINS = f"{class_measures.BINS} bins"
_MEAN, _SUM = "mean over classes", "sum over classes, 0 to 2"
_PROBABILITIES = "probabilities of the classes in the table"


def measures_of(units: ScoredUnits, *, threshold: float = THRESHOLD) -> list[Measure]:
    """Return the measures of a target's type, in the order of `MEASURES`.

    Args:
        units: what is scored.
        threshold: of a binary target: from which probability on a case counts as positive.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> age = TargetColumn("age", TargetType.CONTINUOUS)
        >>> units = units_of(age, np.array([[60.0], [70.0]]), {"age": np.array([58.0, 71.0])}, patients=["P1", "P2"])
        >>> [(measure.name, measure.compute(np.ones((1, 2))).round(3).tolist()) for measure in measures_of(units)][:2]
        [('mae', [1.5]), ('rmse', [1.581])]
    """
    kind = units.column.type
    if kind is TargetType.BINARY:
        return _of_two_classes(units, threshold)
    if kind is TargetType.CONTINUOUS:
        return _of_values(units)
    if kind is TargetType.SURVIVAL:
        return _of_survival(units)
    return _of_classes(units)


def _undefined(weights: Array) -> Array:
    return np.full(len(weights), np.nan)


def _of_two_classes(units: ScoredUnits, threshold: float) -> list[Measure]:
    positive, p, truth = units.classes == 1, units.values, units.classes
    right, at = positive.astype(np.float64), f"at a threshold of {threshold:g}"
    errors = class_measures.squared_errors(truth, np.stack([1 - p, p], axis=1))
    by_chance = f"{positive.mean() if len(p) else 0:.3f} by chance"

    def table(weights: Array) -> Array:
        return class_measures.confusions(truth, (p >= threshold).astype(np.int64), 2, weights)

    def balanced(weights: Array) -> Array:
        return class_measures.balanced_accuracy(table(weights), np.ones(2, dtype=bool))

    def f1(weights: Array) -> Array:
        return np.where(weights @ right > 0, class_measures.f1_of_classes(table(weights))[:, 1], np.nan)

    def precision(weights: Array) -> Array:
        return class_measures.average_precision(positive, p, weights)

    def calibration(weights: Array) -> Array:
        return class_measures.expected_calibration_error(right, p, weights)

    return [
        Measure(name="auc", compute=lambda w: class_measures.auc(positive, p, w), needs=_BOTH),
        Measure(name="average_precision", compute=precision, needs="a positive case", note=by_chance),
        Measure(name="balanced_accuracy", compute=balanced, needs=_BOTH, note=at),
        Measure(name="f1", compute=f1, needs="a positive case", note=at),
        Measure(name="brier", compute=lambda w: weighted_mean(errors, w), needs="a case"),
        Measure(name="ece", compute=calibration, needs="a case", note=_BINS),
    ]


def _of_classes(units: ScoredUnits) -> list[Measure]:
    truth, chosen, names = units.classes, units.chosen, units.column.classes
    present = np.bincount(truth, minlength=len(names)) > 0
    several = present.sum() > 1
    absent = [name for name, there in zip(names, present) if not there]
    over = f"mean over classes{', without ' + ', '.join(absent) + ' (no case)' if absent else ''}"

    def table(weights: Array) -> Array:
        return class_measures.confusions(truth, chosen, len(names), weights)

    def balanced(weights: Array) -> Array:
        return class_measures.balanced_accuracy(table(weights), present)

    found = [
        *_of_probabilities(units, present, over),
        Measure(name="balanced_accuracy", compute=balanced if several else _undefined, needs=_SEVERAL, note=over),
        Measure(name="f1", compute=lambda w: class_measures.macro_f1(table(w)), needs="a case", note=_MEAN),
    ]
    if units.column.type is TargetType.ORDINAL:
        found += _of_ranks(table)
    order = MEASURES[units.column.type]
    return sorted(found, key=lambda measure: order.index(measure.name))


def _of_ranks(table: Callable[[Array], Array]) -> list[Measure]:
    def kappa(weights: Array) -> Array:
        return class_measures.weighted_kappa(table(weights))

    def distance(weights: Array) -> Array:
        return class_measures.mae_in_classes(table(weights))

    return [
        Measure(name="weighted_kappa", compute=kappa, needs=_SEVERAL, note="quadratic weights"),
        Measure(name="mae_classes", compute=distance, needs="a case"),
    ]


def _of_probabilities(units: ScoredUnits, present: NDArray[np.bool_], over: str) -> list[Measure]:
    """Return the measures that need probabilities; undefined where the table names classes alone."""
    truth, p = units.classes, units.probabilities
    if p is None:
        names = ("auc", "average_precision", "brier", "ece")
        return [Measure(name=name, compute=_undefined, needs=_PROBABILITIES) for name in names]
    errors, rest = class_measures.squared_errors(truth, p), f"one against rest, {over}"
    surest, right = p.max(axis=1, initial=0.0), (p.argmax(axis=1) == truth).astype(np.float64)
    likeliest = f"of the likeliest class, {_BINS}"

    def over_classes(one: Callable[[NDArray[np.bool_], Array, Array], Array]) -> Callable[[Array], Array]:
        classes = np.flatnonzero(present)
        if len(classes) < 2:
            return _undefined
        return lambda w: np.mean([one(truth == number, p[:, number], w) for number in classes], axis=0)

    def calibration(weights: Array) -> Array:
        return class_measures.expected_calibration_error(right, surest, weights)

    precision = over_classes(class_measures.average_precision)
    return [
        Measure(name="auc", compute=over_classes(class_measures.auc), needs=_SEVERAL, note=rest),
        Measure(name="average_precision", compute=precision, needs=_SEVERAL, note=rest),
        Measure(name="brier", compute=lambda w: weighted_mean(errors, w), needs="a case", note=_SUM),
        Measure(name="ece", compute=calibration, needs="a case", note=likeliest),
    ]


def _of_values(units: ScoredUnits) -> list[Measure]:
    truth, p = units.truth[:, 0], units.values
    unit = f"in {units.column.unit}" if units.column.unit else ""
    vary = "true values that differ"
    both_vary = "true and predicted values that differ"
    return [
        Measure(name="mae", compute=lambda w: weighted_mean(np.abs(truth - p), w), needs="a case", note=unit),
        Measure(name="rmse", compute=lambda w: np.sqrt(weighted_mean((truth - p) ** 2, w)), needs="a case", note=unit),
        Measure(name="r2", compute=lambda w: value_measures.r_squared(truth, p, w), needs=vary),
        Measure(name="pearson", compute=lambda w: value_measures.pearson(truth, p, w), needs=both_vary),
        Measure(name="spearman", compute=lambda w: value_measures.spearman(truth, p, w), needs=both_vary),
    ]


def _of_survival(units: ScoredUnits) -> list[Measure]:
    time, event = units.truth[:, 0], units.truth[:, 1] > 0
    inside = units.times < time.max(initial=0.0)
    at, survival = units.times[inside], units.survival[:, inside]
    name, unit = units.column.name, f" {units.column.unit}" if units.column.unit else ""
    span = f"from {at[0]:g} to {at[-1]:g}{unit}" if len(at) > 1 else f"at {at[0]:g}{unit}" if len(at) else ""
    beyond = _beyond(units.times[~inside])

    def brier(weights: Array) -> Array:
        return survival_measures.integrated_brier(time, event, survival, at, weights)

    return [
        Measure(
            name="c_index",
            compute=lambda w: survival_measures.concordance(time, event, units.values, w),
            needs="an event before another case's time",
        ),
        Measure(
            name="integrated_brier",
            compute=brier if len(at) else _undefined,
            needs=f"columns {name}@TIME with times before the longest follow-up",
            note=f"{span}{beyond}",
        ),
    ]


def _beyond(times: Sequence[float] | Array) -> str:
    """Say which times lie behind the follow-up."""
    return f", without {', '.join(f'{time:g}' for time in times)} (after the longest follow-up)" if len(times) else ""
