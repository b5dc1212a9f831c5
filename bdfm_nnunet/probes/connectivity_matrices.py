"""Correlations between the time courses of regions as one vector per run.

Shapes: courses (T, R), vectors (R (R - 1) / 2,), the pairs in the order (0, 1), (0, 2) ... (1, 2) ...
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

Array = NDArray[np.float64]
_CLOSEST = 1 - 1e-7
"""Correlations are cut there, so that Fisher's z stays finite: at 8.4."""


def correlation_vector(courses: Array) -> Array:
    """Return Fisher's z of the correlation of every pair of courses; 0 with a course that does not change.

    Example:
        >>> courses = np.array([[1.0, 2, 1], [2, 4, 0], [3, 6, 2], [4, 8, 0]])
        >>> np.tanh(correlation_vector(courses)).round(4).tolist()
        [1.0, -0.1348, -0.1348]
    """
    scores = _standard_scores(courses)
    return _fisher_z(scores.T @ scores / len(scores))


def partial_correlation_vector(courses: Array) -> Array:
    """Return Fisher's z of the correlation of every pair that all other courses do not explain.

    It is that of the inverse of the covariance of standard scores, shrunk towards the identity by the rule of Ledoit
    and Wolf (2004, https://doi.org/10.1016/S0047-259X(03)00096-4), so that it exists with fewer frames than regions.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> cause = rng.normal(size=500)
        >>> courses = np.stack([cause, cause + rng.normal(size=500), cause + rng.normal(size=500)], axis=1)
        >>> bool(correlation_vector(courses)[2] > 0.4), bool(abs(partial_correlation_vector(courses)[2]) < 0.2)
        (True, True)
    """
    precision = np.linalg.inv(ledoit_wolf(_standard_scores(courses), assume_centered=True)[0])
    scale = 1 / np.sqrt(np.diag(precision))
    return _fisher_z(-precision * scale * scale[:, None])


def _standard_scores(courses: Array) -> Array:
    centred = courses - courses.mean(axis=0)
    spread = centred.std(axis=0)
    still = spread <= 1e-9 * np.abs(courses).max(axis=0, initial=0)
    return np.where(still, 0.0, centred / np.where(still, 1.0, spread))


def _fisher_z(correlations: Array) -> Array:
    pairs = correlations[np.triu_indices(len(correlations), 1)]
    return np.arctanh(np.clip(pairs, -_CLOSEST, _CLOSEST))
