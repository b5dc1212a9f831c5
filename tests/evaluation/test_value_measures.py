"""Measures of numbers against scikit-learn and scipy, on resamples whose weights are written out as repeated cases."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from bdfm_nnunet.evaluation import value_measures as ours

N = 30


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(5)
    truth = np.round(rng.normal(60, 8, N))
    weights = np.stack([np.ones(N), *(rng.multinomial(N, np.full(N, 1 / N)) for _ in range(3))]).astype(float)
    return truth, np.round(0.5 * truth + rng.normal(30, 5, N)), weights


def expected(cases, measure):
    truth, predicted, weights = cases
    return [measure(np.repeat(truth, row.astype(int)), np.repeat(predicted, row.astype(int))) for row in weights]


def test_r_squared_and_correlations(cases):
    found = [measure(*cases) for measure in (ours.r_squared, ours.pearson, ours.spearman)]
    theirs = [r2_score, lambda t, p: stats.pearsonr(t, p)[0], lambda t, p: stats.spearmanr(t, p)[0]]
    for own, measure in zip(found, theirs):
        np.testing.assert_allclose(own, expected(cases, measure), rtol=1e-9)
        assert np.ptp(own) > 0.01
    assert len(np.unique(cases[0])) < N  # there are ties


def test_ranks_are_those_of_the_written_out_cases(cases):
    truth, _, weights = cases
    for row, ranks in zip(weights, ours.midranks(truth, weights)):
        np.testing.assert_allclose(np.repeat(ranks, row.astype(int)), stats.rankdata(np.repeat(truth, row.astype(int))))


def test_constants_have_no_correlation(cases):
    truth, predicted, weights = cases
    only = np.zeros((1, N))
    only[0, 7] = 5
    for measure in (ours.r_squared, ours.pearson, ours.spearman):
        assert np.isnan(measure(truth, predicted, only)).all()
        assert np.isnan(measure(np.full(N, 1e6 + 0.1), predicted, weights)).all()
    assert np.isnan(ours.pearson(truth, np.full(N, 0.3), weights)).all()
    assert np.isfinite(ours.r_squared(truth, np.full(N, 0.3), weights)).all()


def test_r_squared_of_the_mean_is_zero_and_of_worse_negative(cases):
    truth, _, weights = cases
    assert ours.r_squared(truth, np.full(N, truth.mean()), weights[:1])[0] == pytest.approx(0)
    assert ours.r_squared(truth, truth[::-1] + 100, weights[:1])[0] < -1
