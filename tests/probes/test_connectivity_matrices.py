"""Correlations against NumPy's, and partial ones against what regressions of all other courses leave."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from bdfm_nnunet.probes.connectivity_matrices import correlation_vector, partial_correlation_vector


@pytest.fixture(scope="module")
def courses() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) * 10.0 ** np.arange(-3, 3) + 50


def test_plain_correlations(courses: np.ndarray) -> None:
    expected = np.arctanh(np.corrcoef(courses.T)[np.triu_indices(6, 1)])
    np.testing.assert_allclose(correlation_vector(courses), expected, rtol=1e-9)
    assert np.ptp(expected) > 1


def test_partial_correlations_are_those_of_residuals_with_many_frames() -> None:
    rng = np.random.default_rng(2)
    courses = rng.normal(size=(20000, 4)) @ rng.normal(size=(4, 4))
    found = partial_correlation_vector(courses)
    for value, pair in zip(found, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], strict=True):
        others = np.delete(courses - courses.mean(axis=0), pair, axis=1)
        left = [y - others @ np.linalg.lstsq(others, y, rcond=None)[0] for y in courses[:, pair].T]
        assert np.tanh(value) == pytest.approx(np.corrcoef(left)[0, 1], abs=0.01)


def test_shrinkage_is_ledoit_and_wolfs_and_few_frames_do(courses: np.ndarray) -> None:
    few = courses[:5]
    scores = (few - few.mean(axis=0)) / few.std(axis=0)
    precision = LedoitWolf(assume_centered=True).fit(scores).precision_
    expected = -precision / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    np.testing.assert_allclose(np.tanh(partial_correlation_vector(few)), expected[np.triu_indices(6, 1)], rtol=1e-6)


@pytest.mark.parametrize("vector", [correlation_vector, partial_correlation_vector])
def test_still_and_equal_courses_give_finite_numbers(vector, courses: np.ndarray) -> None:
    odd = courses.copy()
    odd[:, 0], odd[:, 1] = 7.1, odd[:, 2]
    found = vector(odd)
    assert np.isfinite(found).all() and (found[:5] == 0).all() and found[5] > 1
