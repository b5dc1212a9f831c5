"""Measures of classes against scikit-learn, on resamples whose weights are written out as repeated cases."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from bdfm_nnunet.evaluation import class_measures as ours

N, K = 40, 4


@pytest.fixture(scope="module")
def cases():
    """Classes, tied probabilities, predictions and the weights of three resamples."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, K, N)
    probabilities = np.round(rng.dirichlet(np.ones(K), N) + 0.2 * np.eye(K)[truth], 1) + 1e-3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    weights = np.stack([np.ones(N), *(rng.multinomial(N, np.full(N, 1 / N)) for _ in range(2))]).astype(float)
    return truth, probabilities, weights


def repeated(row, *arrays):
    """The arrays with each case as often as its weight says."""
    return [np.repeat(array, row.astype(int), axis=0) for array in arrays]


def binary(cases):
    truth, probabilities, weights = cases
    return truth >= 2, np.round(probabilities[:, 2:].sum(axis=1), 1), weights


@pytest.mark.parametrize(
    ("measure", "theirs"),
    [(ours.auc, sk.roc_auc_score), (ours.average_precision, sk.average_precision_score)],
    ids=["auc", "average precision"],
)
def test_ranking_measures_are_scikit_learns_with_ties_and_weights(cases, measure, theirs):
    positive, scores, weights = binary(cases)
    assert len(np.unique(scores)) < N / 2
    expected = [theirs(*repeated(row, positive, scores)) for row in weights]
    np.testing.assert_allclose(measure(positive, scores, weights), expected, rtol=1e-12)
    assert np.ptp(expected) > 0.01


def test_auc_by_hand():
    positive, scores = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.4, 0.1])
    assert ours.auc(positive, scores, np.ones((1, 4))).tolist() == [3.5 / 4]
    assert ours.auc(~positive, scores, np.ones((1, 4))).tolist() == [0.5 / 4]


def test_one_class_and_empty_resamples_are_not_a_number(cases):
    positive, scores, weights = binary(cases)
    nothing = np.stack([np.where(positive, 0.0, 1.0), np.where(positive, 1.0, 0.0), np.zeros(N)])
    assert np.isnan(ours.auc(positive, scores, nothing)).all()
    assert np.isnan(ours.average_precision(positive, scores, nothing)).tolist() == [True, False, True]


def test_confusions_and_what_comes_of_them(cases):
    truth, probabilities, weights = cases
    chosen = probabilities.argmax(axis=1)
    table = ours.confusions(truth, chosen, K, weights)
    for row, found, accuracy, f1, kappa, distance in zip(
        weights,
        table,
        ours.balanced_accuracy(table, np.ones(K, dtype=bool)),
        ours.macro_f1(table),
        ours.weighted_kappa(table),
        ours.mae_in_classes(table),
    ):
        t, c = repeated(row, truth, chosen)
        np.testing.assert_array_equal(found, sk.confusion_matrix(t, c, labels=range(K)))
        assert accuracy == pytest.approx(sk.balanced_accuracy_score(t, c))
        assert f1 == pytest.approx(sk.f1_score(t, c, average="macro"))
        assert kappa == pytest.approx(sk.cohen_kappa_score(t, c, weights="quadratic"))
        assert distance == pytest.approx(np.abs(t - c).mean())


def test_a_resample_without_a_class_has_no_balanced_accuracy():
    table = ours.confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), 3, np.array([[1.0, 1, 1], [1, 1, 0]]))
    present = np.array([True, True, False])
    assert ours.balanced_accuracy(table, present)[0] == 0.75
    assert math.isnan(ours.balanced_accuracy(table, present)[1])


def test_weighted_kappa_by_hand():
    """Grades 2, 3, 4 of two readers: cost (i - j)^2 of 2 observed (1 + 4) and of margins (2 2 1), (1 2 2)."""
    truth, chosen = np.array([0, 0, 1, 1, 2]), np.array([0, 2, 1, 1, 2])
    table = ours.confusions(truth, chosen, 3, np.ones((1, 5)))
    observed = 4
    expected = (2 * (1 * 0 + 2 * 1 + 2 * 4) + 2 * (1 * 1 + 0 + 2 * 1) + 1 * (1 * 4 + 2 * 1 + 0)) / 5
    assert ours.weighted_kappa(table)[0] == pytest.approx(1 - observed / expected)
    assert math.isnan(ours.weighted_kappa(ours.confusions(truth * 0, chosen * 0, 3, np.ones((1, 5))))[0])


def test_brier_score_is_scikit_learns(cases):
    truth, probabilities, weights = cases
    p = probabilities[:, 1]
    two = ours.squared_errors((truth == 1).astype(int), np.stack([1 - p, p], axis=1))
    for row, found in zip(weights, ours.weighted_mean(two, weights)):
        assert found == pytest.approx(sk.brier_score_loss(*repeated(row, truth == 1, p)))
    several = ours.squared_errors(truth, probabilities)
    by_hand = sum(((k == t) - p[k]) ** 2 for t, p in zip(truth, probabilities) for k in range(K)) / N
    assert several.mean() == pytest.approx(by_hand)


def slow_calibration_error(right, probabilities, bins=10):
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            i for i, p in enumerate(probabilities) if low < p <= high + 1e-12 or (number == 0 and p <= high + 1e-12)
        ]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([probabilities[i] for i in inside])
            total += abs(gap) * len(inside) / len(right)
    return total


def test_calibration_error_is_that_of_slow_code(cases):
    truth, probabilities, weights = cases
    right, p = (truth == 0).astype(float), probabilities[:, 0]
    found = ours.expected_calibration_error(right, p, weights)
    assert found == pytest.approx([slow_calibration_error(*repeated(row, right, p)) for row in weights])
    count, expected, observed = (part[0] for part in ours.calibration_sums(right, p, weights[:1]))
    fraction, mean = calibration_curve(right, p, n_bins=10)
    np.testing.assert_allclose(observed[count > 0] / count[count > 0], fraction)
    np.testing.assert_allclose(expected[count > 0] / count[count > 0], mean)


def test_bins_hold_their_upper_border():
    assert ours.bins_of(np.array([0, 1e-9, 0.1, 0.3, 0.30001, 0.7, 1])).tolist() == [0, 0, 0, 2, 3, 6, 9]
