"""Curves of predictions for subjects: ROC, precision and recall, calibration, and survival by predicted risk."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.class_measures import BINS, bins_of, calibration_sums, divided
from bdfm_nnunet.evaluation.subject_bootstrap import Array, PatientDraws
from bdfm_nnunet.evaluation.subject_scores import RESAMPLES
from bdfm_nnunet.evaluation.subject_units import ScoredUnits
from bdfm_nnunet.evaluation.survival_measures import kaplan_meier
from bdfm_nnunet.targets import TargetType

_FOR_THIRDS = 60  # patients from which on three risk groups are formed


def class_scores(units: ScoredUnits) -> dict[str, tuple[NDArray[np.bool_], Array]]:
    """Return, for each class to be told from the rest, which units have it and their probability of it.

    Of a binary target it is the positive class alone. Classes that no unit has, or all have, are left out.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> idh = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
        >>> units = units_of(idh, np.array([[0.0], [1.0]]), {"idh": np.array([0.1, 0.8])}, patients=["P1", "P2"])
        >>> list(class_scores(units))
        ['mutant']
    """
    names = units.column.classes
    if units.column.type is TargetType.BINARY:
        found = {names[1]: (units.classes == 1, units.values)}
    elif units.probabilities is None:
        return {}
    else:
        found = {name: (units.classes == at, units.probabilities[:, at]) for at, name in enumerate(names)}
    return {name: (there, p) for name, (there, p) in found.items() if there.any() and not there.all()}


def roc_curve(positive: NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Return the shares of negative and of positive cases at or above each threshold, from (0, 0) to (1, 1).

    Example:
        >>> false, true = roc_curve(np.array([True, False, True]), np.array([0.9, 0.5, 0.2]))
        >>> false.tolist(), true.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    found, taken = _above(positive, scores)
    hits, alarms = found / found[-1], (taken - found) / (taken - found)[-1]
    return np.concatenate([[0.0], alarms]), np.concatenate([[0.0], hits])


def precision_recall_curve(positive: NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Return recall and precision at each threshold, from the highest down; draw them as steps.

    Example:
        >>> recall, precision = precision_recall_curve(np.array([True, False, True]), np.array([0.9, 0.5, 0.2]))
        >>> recall.tolist(), precision.round(2).tolist()
        ([0.5, 0.5, 1.0], [1.0, 0.5, 0.67])
    """
    found, taken = _above(positive, scores)
    return found / found[-1], found / taken


def _above(positive: NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Return the numbers of positive and of all cases at or above each of the scores that occur, the highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found: Array = np.cumsum(positive[order])[last].astype(np.float64)
    return found, (last + 1).astype(np.float64)


def calibration_curve(positive: NDArray[np.bool_], p: Array, draws: PatientDraws) -> list[dict[str, Any]]:
    """Return, for each bin with cases, mean probability and frequency with its interval over patients.

    Args:
        positive: (N,).
        p: predicted probability, (N,).
        draws: of the patients of the cases.

    Example:
        >>> draws = PatientDraws.of(["P1", "P2", "P3"], resamples=100, seed=0)
        >>> curve = calibration_curve(np.array([True, False, True]), np.array([0.12, 0.18, 0.9]), draws)
        >>> [(each["bin"], round(each["probability"], 2), each["frequency"], each["n"]) for each in curve]
        [([0.1, 0.2], 0.15, 0.5, 2), ([0.8, 0.9], 0.9, 1.0, 1)]
    """
    right, places = positive.astype(np.float64), bins_of(p)
    count, _, observed = calibration_sums(right, p, draws.weights())
    sampled = divided(observed, count)
    curve = []
    for number in sorted(set(places.tolist())):
        inside, known = places == number, sampled[np.isfinite(sampled[:, number]), number]
        several = len(known) > 0 and draws.count(np.flatnonzero(inside)) > 1
        curve.append(
            {
                "bin": [number / BINS, (number + 1) / BINS],
                "probability": float(p[inside].mean()),
                "frequency": float(right[inside].mean()),
                "interval": [float(end) for end in np.quantile(known, [0.025, 0.975])] if several else None,
                "n": int(inside.sum()),
            }
        )
    return curve


def calibration_of(units: ScoredUnits, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return the calibration curve of each class; see `calibration_curve`.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> idh = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
        >>> units = units_of(idh, np.array([[0.0], [1.0]]), {"idh": np.array([0.1, 0.8])}, patients=["P1", "P2"])
        >>> [each["n"] for each in calibration_of(units, resamples=10)["mutant"]]
        [1, 1]
    """
    draws = PatientDraws.of(units.patients, resamples=resamples, seed=seed)
    return {name: calibration_curve(there, p, draws) for name, (there, p) in class_scores(units).items()}


def risk_groups(units: ScoredUnits) -> dict[str, NDArray[np.int64]]:
    """Return the units of low and high predicted risk (of low, middle and high from 60 on), in parts of equal size.

    Units of equal risk stay together, so that parts may differ in size, or only one may be left.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> truth, risk = np.array([[5.0, 1], [9.0, 0], [2.0, 1], [7.0, 1]]), np.array([0.5, -1.0, 2.0, 0.0])
        >>> units = units_of(TargetColumn("os", TargetType.SURVIVAL), truth, {"os": risk}, patients="abcd")
        >>> {name: rows.tolist() for name, rows in risk_groups(units).items()}
        {'low risk': [1, 3], 'high risk': [0, 2]}
    """
    names = ["low risk", "middle risk", "high risk"] if len(units) >= _FOR_THIRDS else ["low risk", "high risk"]
    risk = units.values
    if not len(risk):
        return {}
    borders = np.quantile(risk, np.linspace(0, 1, len(names) + 1)[1:-1])
    places = np.searchsorted(borders, risk, side="left")
    found = {name: np.flatnonzero(places == number) for number, name in enumerate(names)}
    return {name: rows for name, rows in found.items() if len(rows)}


def survival_curve(units: ScoredUnits) -> dict[str, Array]:
    """Return the Kaplan-Meier curve of some units, with a band of 95 %.

    The band is Greenwood's on the scale log(-log S), which stays between 0 and 1 (Kalbfleisch and Prentice 1980).

    Returns:
        "time", from 0 on, "share" without event from then on, "low" and "high", and "censored", the times of censoring.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> truth = np.array([[5.0, 1], [9.0, 0]])
        >>> units = units_of(TargetColumn("os", TargetType.SURVIVAL), truth, {"os": truth[:, 0]}, patients="ab")
        >>> curve = survival_curve(units)
        >>> curve["time"].tolist(), curve["share"].tolist(), curve["censored"].tolist()
        ([0.0, 5.0, 9.0], [1.0, 0.5, 0.5], [9.0])
    """
    time, event = units.truth[:, 0], units.truth[:, 1] > 0
    times, share, at_risk = (part.reshape(-1) for part in kaplan_meier(time, event, np.ones((1, len(units)))))
    events = np.array([(event & (time == t)).sum() for t in times], dtype=np.float64)
    left = at_risk * (at_risk - events)
    variance = np.cumsum(np.divide(events, left, out=np.zeros_like(left), where=left > 0))
    low, high = _band(share, variance)
    padded = {"share": share, "low": low, "high": high}
    return {
        "time": np.concatenate([[0.0], times]),
        **{name: np.concatenate([[1.0], part]) for name, part in padded.items()},
        "censored": np.sort(time[~event]),
    }


def _band(share: Array, variance: Array) -> tuple[Array, Array]:
    inside = (share > 0) & (share < 1)
    logs = np.log(np.where(inside, share, 0.5))
    factor = np.exp(1.959964 * np.sqrt(variance) / -logs)
    return np.where(inside, share**factor, share), np.where(inside, share ** (1 / factor), share)


def at_risk_at(units: ScoredUnits, times: Array) -> list[int]:
    """Return how many units are still without event and seen at some times.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn
        >>> truth = np.array([[5.0, 1], [9.0, 0]])
        >>> units = units_of(TargetColumn("os", TargetType.SURVIVAL), truth, {"os": truth[:, 0]}, patients="ab")
        >>> at_risk_at(units, np.array([0.0, 5.0, 6.0]))
        [2, 2, 1]
    """
    return [int((units.truth[:, 0] >= time).sum()) for time in times]
