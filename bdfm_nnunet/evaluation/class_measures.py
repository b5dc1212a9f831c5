"""Measures of predicted classes and probabilities, for the weights of many resamples at once.

Shapes: R resamples, N cases, K classes. Weights are (R, N); a case of weight 2 counts as two cases.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
BINS = 10
"""Bins of equal width of the calibration curve."""


def divided(over: Array, under: Array) -> Array:
    """Return the quotient, NaN where nothing is to be divided by.

    Example:
        >>> divided(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)


def _summed_ties(values: Array, scores: Array) -> Array:
    """Return values (R, N) in ascending order of the scores (N,), those of equal scores added up."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return np.add.reduceat(values[:, order], starts, axis=1)


def auc(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Return the area under the ROC curve (R,): the chance that a positive case has the higher score, ties count half.

    Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747. NaN without cases of both kinds.

    Args:
        positive: (N,).
        scores: (N,), larger is more likely positive.
        weights: (R, N).

    Example:
        >>> auc(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]), np.ones((1, 3))).tolist()
        [0.75]
    """
    with_it = _summed_ties(weights * positive, scores)
    without = _summed_ties(weights * ~positive, scores)
    below = np.cumsum(without, axis=1) - without / 2
    return divided((with_it * below).sum(axis=1), with_it.sum(axis=1) * without.sum(axis=1))


def average_precision(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Return the average precision (R,): precision at each threshold, weighted by the rise of recall.

    The step-wise area under the precision-recall curve, without interpolation; scikit-learn's definition. NaN without
    a positive case. By chance it is the share of positive cases.

    Args:
        positive: (N,).
        scores: (N,).
        weights: (R, N).

    Example:
        >>> found = average_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.2]), np.ones((1, 3)))
        >>> found.round(3).tolist()
        [0.833]
    """
    found = np.cumsum(rise := _summed_ties(weights * positive, -scores), axis=1)
    taken = np.cumsum(_summed_ties(weights, -scores), axis=1)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    return divided((rise * precision).sum(axis=1), found[:, -1])


def confusions(truth: Whole, chosen: Whole, classes: int, weights: Array) -> Array:
    """Return how often each class (second axis) was taken for each (third axis), (R, K, K).

    Args:
        truth: number of each case's class, (N,).
        chosen: number of the predicted class, (N,).
        classes: K.
        weights: (R, N).

    Example:
        >>> confusions(np.array([0, 1, 1]), np.array([0, 1, 0]), 2, np.ones((1, 3)))[0].tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    cells = np.zeros((len(truth), classes * classes))
    cells[np.arange(len(truth)), truth * classes + chosen] = 1
    return (weights @ cells).reshape(-1, classes, classes)


def balanced_accuracy(table: Array, present: NDArray[np.bool_]) -> Array:
    """Return the mean recall (R,) of the classes that have cases; NaN in a resample that lacks one of them.

    Brodersen et al. 2010, https://doi.org/10.1109/ICPR.2010.764.

    Args:
        table: confusions, (R, K, K).
        present: which classes have cases in the data, (K,).

    Example:
        >>> balanced_accuracy(np.array([[[3.0, 1.0], [1.0, 1.0]]]), np.array([True, True])).tolist()
        [0.625]
    """
    recall = divided(np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2))
    return recall[:, present].mean(axis=1)


def f1_of_classes(table: Array) -> Array:
    """Return F1 of each class, (R, K): 2 tp / (2 tp + fp + fn); NaN for one that is neither there nor predicted.

    Example:
        >>> f1_of_classes(np.array([[[3.0, 1.0], [1.0, 1.0]]])).tolist()
        [[0.75, 0.5]]
    """
    hits = np.diagonal(table, axis1=1, axis2=2)
    return divided(2 * hits, table.sum(axis=1) + table.sum(axis=2))


def macro_f1(table: Array) -> Array:
    """Return the mean F1 (R,) of the classes that are there or are predicted, as scikit-learn does.

    Example:
        >>> macro_f1(np.array([[[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])).tolist()
        [0.625]
    """
    each = f1_of_classes(table)
    known = np.isfinite(each)
    return divided(np.where(known, each, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def weighted_kappa(table: Array) -> Array:
    """Return Cohen's kappa with quadratic weights (R,): 1 - sum w o / sum w e with w = (i - j)^2.

    Cohen 1968, https://doi.org/10.1037/h0026256; o are the observed counts and e those expected of the margins alone.
    NaN where all cases have, and are given, one class.

    Example:
        >>> weighted_kappa(np.array([[[2.0, 0.0], [1.0, 1.0]]])).round(3).tolist()
        [0.5]
    """
    classes = np.arange(table.shape[1])
    cost = (classes[:, None] - classes[None, :]).astype(np.float64) ** 2
    total = table.sum(axis=(1, 2))
    by_chance = np.einsum("ri,rj,ij->r", table.sum(axis=2), table.sum(axis=1), cost)
    return 1 - divided((table * cost).sum(axis=(1, 2)) * total, by_chance)


def mae_in_classes(table: Array) -> Array:
    """Return the mean distance (R,) of predicted and true class, in classes.

    Example:
        >>> mae_in_classes(np.array([[[1.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]])).tolist()
        [0.5]
    """
    classes = np.arange(table.shape[1])
    distance = np.abs(classes[:, None] - classes[None, :])
    return divided((table * distance).sum(axis=(1, 2)), table.sum(axis=(1, 2)))


def squared_errors(truth: Whole, probabilities: Array) -> Array:
    """Return the terms (N,) whose mean is the Brier score.

    Brier 1950, with the sum over classes. Of two classes it is (p - y)^2 of the positive one, half of that sum, as is
    usual.

    Args:
        truth: (N,).
        probabilities: (N, K).

    Example:
        >>> squared_errors(np.array([0, 1]), np.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
        [0.0625, 0.25]
    """
    errors = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(axis=1)
    return errors / 2 if probabilities.shape[1] == 2 else errors


def weighted_mean(values: Array, weights: Array) -> Array:
    """Return the mean (R,) of values (N,).

    Example:
        >>> weighted_mean(np.array([1.0, 4.0]), np.array([[2.0, 1.0]])).tolist()
        [2.0]
    """
    return divided(weights @ values, weights.sum(axis=1))


def bins_of(probabilities: Array, bins: int = BINS) -> Whole:
    """Return the number of the bin of equal width, (lower, upper], that each probability lies in; 0 is in the first.

    Example:
        >>> bins_of(np.array([0.0, 0.1, 0.11, 1.0])).tolist()
        [0, 0, 1, 9]
    """
    return np.clip(np.ceil(np.round(probabilities * bins, 9)).astype(np.int64) - 1, 0, bins - 1)


def calibration_sums(right: Array, probabilities: Array, weights: Array, bins: int = BINS) -> tuple[Array, ...]:
    """Return cases, sum of probabilities and sum of outcomes of each bin, each (R, bins).

    Args:
        right: 1 where the event of which `probabilities` tells has happened, else 0; (N,).
        probabilities: (N,).
        weights: (R, N).
        bins: number of bins.

    Example:
        >>> sums = calibration_sums(np.array([0.0, 1.0]), np.array([0.3, 0.9]), np.ones((1, 2)))
        >>> [part[0, 8].tolist() for part in sums]
        [1.0, 0.9, 1.0]
    """
    places = np.zeros((len(probabilities), bins))
    places[np.arange(len(probabilities)), bins_of(probabilities, bins)] = 1
    return tuple(weights @ (places * of[:, None]) for of in (np.ones_like(probabilities), probabilities, right))


def expected_calibration_error(right: Array, probabilities: Array, weights: Array) -> Array:
    """Return the expected calibration error (R,): mean over cases of |mean probability - frequency| of their bin.

    Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602; Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    Chance alone makes it larger than 0, the more the fewer cases there are, and resampling once more.

    Args:
        right: (N,), 0 or 1.
        probabilities: (N,).
        weights: (R, N).

    Example:
        >>> error = expected_calibration_error(np.array([0.0, 1.0]), np.array([0.25, 0.25]), np.ones((1, 2)))
        >>> error.tolist()
        [0.25]
    """
    count, expected, observed = calibration_sums(right, probabilities, weights)
    return divided(np.abs(expected - observed).sum(axis=1), count.sum(axis=1))
