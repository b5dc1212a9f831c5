"""Measures of predicted numbers, for the weights of many resamples at once.

Shapes: R resamples, N cases. Weights are (R, N); a case of weight 2 counts as two cases.
"""

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.class_measures import divided, weighted_mean

Array = NDArray[np.float64]
_ROUNDING = 1e-12


def _spread(values: Array, weights: Array) -> Array:
    """Return the weighted variance (R,) of values (N,) or (R, N); 0 where it is no more than rounding."""
    if values.ndim == 1:
        values = (values - values.mean())[None]
    total = np.maximum(weights.sum(axis=1), 1e-300)
    mean, square = ((weights * part).sum(axis=1) / total for part in (values, values**2))
    variance = square - mean**2
    return np.where(variance > _ROUNDING * square, variance, 0.0)


def r_squared(truth: Array, predicted: Array, weights: Array) -> Array:
    """Return the coefficient of determination (R,): 1 - sum (y - p)^2 / sum (y - mean y)^2.

    0 is what the mean of these cases would reach, and negative values are worse than that. It is not the square of the
    correlation. NaN where all true values are equal.

    Args:
        truth: (N,).
        predicted: (N,).
        weights: (R, N).

    Example:
        >>> r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]), np.ones((1, 3))).tolist()
        [0.5]
    """
    return 1 - divided(weighted_mean((truth - predicted) ** 2, weights), _spread(truth, weights))


def pearson(truth: Array, predicted: Array, weights: Array) -> Array:
    """Return the correlation (R,) of values (N,) or of ranks (R, N); NaN where one of both is constant.

    Example:
        >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), np.ones((1, 3))).round(9).tolist()
        [1.0]
    """
    first, second = ((part - part.mean())[None] if part.ndim == 1 else part for part in (truth, predicted))
    total = np.maximum(weights.sum(axis=1), 1e-300)
    means = [(weights * part).sum(axis=1) / total for part in (first, second)]
    together = (weights * first * second).sum(axis=1) / total - means[0] * means[1]
    return np.clip(divided(together, np.sqrt(_spread(truth, weights) * _spread(predicted, weights))), -1, 1)


def midranks(values: Array, weights: Array) -> Array:
    """Return the rank (R, N) of each case in each resample, equal values having the mean of their ranks.

    Args:
        values: (N,).
        weights: (R, N), whole numbers.

    Example:
        >>> midranks(np.array([5.0, 1.0, 5.0]), np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]])).tolist()
        [[2.5, 1.0, 2.5], [3.0, 1.5, 3.0]]
    """
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    ties = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(ties, axis=1) - ties / 2 + 0.5)[:, inverse.reshape(-1)]


def spearman(truth: Array, predicted: Array, weights: Array) -> Array:
    """Return Spearman's rank correlation (R,): Pearson's of the ranks, which are those of each resample.

    Example:
        >>> spearman(np.array([1.0, 2.0, 30.0]), np.array([2.0, 3.0, 4.0]), np.ones((1, 3))).round(9).tolist()
        [1.0]
    """
    return pearson(midranks(truth, weights), midranks(predicted, weights), weights)
