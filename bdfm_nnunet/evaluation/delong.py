"""Variance of areas under ROC curves and the test of two of them, after DeLong.

DeLong et al. 1988, https://doi.org/10.2307/2531595, computed from midranks as in Sun and Xu 2014,
https://doi.org/10.1109/LSP.2014.2337313, with the sums over patients of Obuchowski 1997,
https://doi.org/10.2307/2533958, where a patient has several cases. With one case a patient it is DeLong's.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.crossed_bootstrap import patient_numbers

Array = NDArray[np.float64]
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def midrank(values: Array) -> Array:
    """Return the rank of each value from 1 up, equal values having the mean of their ranks.

    Example:
        >>> midrank(np.array([5.0, 1.0, 5.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    ordered = np.sort(values)
    found: Array = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
    return found


def auc_covariance(
    positive: NDArray[np.bool_], scores: Array, *, patients: Sequence[str] | None = None
) -> tuple[Array, Array]:
    """Return the areas (M,) of M models on the same cases, and their covariance (M, M).

    Args:
        positive: (N,), with cases of both kinds.
        scores: (M, N), larger is more likely positive.
        patients: patient of each case; by default each case is one.

    Returns:
        Areas and covariance; NaN in the latter where one kind of cases comes from a single patient.

    Example:
        >>> positive = np.array([True, True, False, False])
        >>> areas, covariance = auc_covariance(positive, np.array([[0.9, 0.4, 0.5, 0.1]]))
        >>> areas.tolist(), covariance.tolist()
        ([0.75], [[0.125]])
    """
    with_it, without = scores[:, positive], scores[:, ~positive]
    sizes = with_it.shape[1], without.shape[1]
    ranks = np.stack([midrank(row) for row in scores])
    own = [np.stack([midrank(row) for row in part]) for part in (with_it, without)]
    of_positive = (ranks[:, positive] - own[0]) / sizes[1]
    of_negative = 1 - (ranks[:, ~positive] - own[1]) / sizes[0]
    areas = of_positive.mean(axis=1)
    numbers = patient_numbers(patients, len(positive))
    sums = [_patient_sums(part - areas[:, None], numbers[rows], numbers.max() + 1)
            for part, rows in ((of_positive, positive), (of_negative, ~positive))]  # fmt: skip
    have = [len(np.unique(numbers[rows])) for rows in (positive, ~positive)]
    total = len(np.unique(numbers))
    if min(have) < 2:
        return areas, np.full((len(scores), len(scores)), np.nan)
    first, second = (count / (count - 1) * part @ part.T / size**2 for part, count, size in zip(sums, have, sizes))
    shared = total / (total - 1) * sums[0] @ sums[1].T / (sizes[0] * sizes[1])
    return areas, first + second + shared + shared.T


def _patient_sums(values: Array, numbers: NDArray[np.int64], patients: int) -> Array:
    """Return the sums over the cases of each patient, (M, patients)."""
    return np.stack([np.bincount(numbers, weights=row, minlength=patients) for row in values])


def compare_aucs(
    positive: NDArray[np.bool_], scores: Array, *, patients: Sequence[str] | None = None
) -> dict[str, Any]:
    """Test whether two models' areas under the ROC curve differ.

    Args:
        positive: (N,).
        scores: of both models, (2, N).
        patients: patient of each case; by default each case is one.

    Returns:
        "value" (second minus first), "interval" (95 %, normal), "p" (two-sided), "z" and "note".

    Example:
        >>> positive = np.array([True, True, True, False, False, False])
        >>> scores = np.array([[0.9, 0.4, 0.6, 0.5, 0.1, 0.3], [0.6, 0.5, 0.2, 0.5, 0.3, 0.4]])
        >>> test = compare_aucs(positive, scores)
        >>> round(test["value"], 3), round(test["p"], 3)
        (-0.278, 0.451)
    """
    nothing = {"value": None, "interval": None, "p": None, "z": None}
    if positive.all() or not positive.any():
        return {**nothing, "note": "not defined: it needs cases of both classes"}
    areas, covariance = auc_covariance(positive, scores, patients=patients)
    change = float(areas[1] - areas[0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not math.isfinite(variance):
        return {**nothing, "value": change, "note": "no interval: each class needs at least 2 patients"}
    error = math.sqrt(max(variance, 0.0))
    if error < 1e-12:
        same = "both models rank all cases alike, so there is no interval" if change == 0 else "the variance is 0"
        return {**nothing, "value": change, "note": same}
    z = change / error
    p = math.erfc(abs(z) / math.sqrt(2))
    return {"value": change, "interval": [change - _Z * error, change + _Z * error], "p": p, "z": z, "note": "DeLong"}
