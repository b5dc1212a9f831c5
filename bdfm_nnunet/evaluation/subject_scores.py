"""Scores of predictions for subjects, with intervals over patients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.delong import compare_aucs
from bdfm_nnunet.evaluation.subject_bootstrap import PatientDraws, difference, estimate
from bdfm_nnunet.evaluation.subject_measures import MEASURES, THRESHOLD, measures_of
from bdfm_nnunet.evaluation.subject_units import ScoredUnits, units_of
from bdfm_nnunet.targets import TargetColumn, TargetType

RESAMPLES = 2000


def score_target(
    column: TargetColumn,
    truth: NDArray[np.float64],
    predicted: Mapping[str, NDArray[Any]],
    *,
    patients: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> dict[str, dict[str, Any]]:
    """Return the scores of the predictions of one target, case by case.

    Args:
        column: the target.
        truth: (N, 1), or time and event (N, 2), as `Targets.values` gives them; a case without a value is left out.
        predicted: the target's columns of a prediction table (see `subject_tables`), in the order of the cases.
        patients: patient of each case; all cases of a patient are drawn together.
        resamples: number of bootstrap resamples; 0 for no intervals.
        seed: of the resampling.
        threshold: of a binary target: from which probability on a case counts as positive.

    Returns:
        Name of each measure -> "value", "interval" (of 95 %), "n" cases, "patients", "undefined_resamples" and "note".
        What is not defined is None, and the note says why.

    Raises:
        InputError: the columns do not fit the type of the target.

    Example:
        >>> idh = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
        >>> truth, predicted = np.array([[0.0], [1.0], [1.0]]), {"idh": np.array([0.2, 0.2, 0.9])}
        >>> scores = score_target(idh, truth, predicted, patients=["P1", "P2", "P3"])
        >>> scores["auc"]["value"], scores["auc"]["n"]
        (0.75, 3)
        >>> score_target(idh, truth[1:], {"idh": np.array([0.2, 0.9])}, patients=["P2", "P3"])["auc"]["note"]
        'not defined: it needs cases of both classes'
    """
    units = units_of(column, truth, predicted, patients=patients)
    return score_units(units, resamples=resamples, seed=seed, threshold=threshold)


def score_units(
    units: ScoredUnits, *, resamples: int = RESAMPLES, seed: int = 0, threshold: float = THRESHOLD
) -> dict[str, dict[str, Any]]:
    """Return the scores of units, as `score_target` does.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS)
        >>> units = units_of(age, np.array([[60.0], [70.0]]), {"age": np.array([58.0, 71.0])}, patients=["P1", "P2"])
        >>> score_units(units, resamples=0)["mae"]["value"]
        1.5
    """
    left = "; ".join(f"{count} cases left out ({why})" for why, count in units.left_out.items())
    if not len(units):
        return {name: _nothing(left) for name in MEASURES[units.column.type]}
    draws = PatientDraws.of(units.patients, resamples=resamples, seed=seed)
    found = {measure.name: estimate(measure, draws) for measure in measures_of(units, threshold=threshold)}
    for scores in found.values():
        scores["note"] = "; ".join(text for text in (scores["note"], left) if text)
    return found


def _nothing(left: str) -> dict[str, Any]:
    note = "; ".join(text for text in ("not defined: no case has a true value and a prediction", left) if text)
    empty = {"value": None, "interval": None, "n": 0, "patients": 0, "undefined_resamples": None}
    return {**empty, "note": note}


def compare_units(
    first: ScoredUnits,
    second: ScoredUnits,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    thresholds: tuple[float, float] = (THRESHOLD, THRESHOLD),
) -> dict[str, dict[str, Any]]:
    """Return the differences of two models' scores, second minus first, on the same units.

    Args:
        first: what is scored of one model.
        second: the same units with the other model's predictions.
        resamples: number of bootstrap resamples; each draws the same patients for both.
        seed: of the resampling.
        thresholds: of a binary target, for each model.

    Returns:
        Name of each measure -> "value", "interval", "p" and "note". For a binary target "auc" is DeLong's.

    Raises:
        ValueError: the units are not the same.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS)
        >>> truth, patients = np.array([[60.0], [70.0]]), ["P1", "P2"]
        >>> ages = [{"age": np.array([58.0, 71.0])}, {"age": np.array([60.0, 71.0])}]
        >>> models = [units_of(age, truth, predicted, patients=patients) for predicted in ages]
        >>> compare_units(*models, resamples=10)["mae"]["value"]
        -1.0
    """
    if first.cases != second.cases or not np.array_equal(first.truth, second.truth):
        raise ValueError("expected the same cases with the same true values for both models")
    if not len(first):
        return {}
    draws = PatientDraws.of(first.patients, resamples=resamples, seed=seed)
    pairs = zip(*(measures_of(units, threshold=at) for units, at in zip((first, second), thresholds)))
    found = {one.name: difference(one, two, draws) for one, two in pairs}
    if first.column.type is TargetType.BINARY:
        scores = np.stack([first.values, second.values])
        found["auc"] = compare_aucs(first.classes == 1, scores, patients=first.patients)
    return found
