"""DeLong's variance against the definition in loops, patients with several cases, and how often the test is wrong."""

import math

import numpy as np
import pytest

from bdfm_nnunet.evaluation.class_measures import auc
from bdfm_nnunet.evaluation.delong import auc_covariance, compare_aucs
from bdfm_nnunet.evaluation.subject_bootstrap import Measure, PatientDraws


def psi(x, y):
    return 1.0 if x > y else 0.5 if x == y else 0.0


def slow_delong(positive, scores):
    """Areas and covariance by the definition of DeLong et al. 1988: loops over all pairs."""
    pos, neg = np.flatnonzero(positive), np.flatnonzero(~positive)
    v10 = np.array([[np.mean([psi(row[i], row[j]) for j in neg]) for i in pos] for row in scores])
    v01 = np.array([[np.mean([psi(row[i], row[j]) for i in pos]) for j in neg] for row in scores])
    return v10.mean(axis=1), np.cov(v10) / len(pos) + np.cov(v01) / len(neg)


@pytest.fixture(scope="module")
def models():
    rng = np.random.default_rng(11)
    positive = rng.random(40) < 0.4
    shared = rng.normal(size=40)
    scores = np.round(np.stack([positive + shared + rng.normal(size=40) / 2, positive / 2 + shared]), 1)
    return positive, scores


def test_it_is_that_of_the_definition(models):
    areas, covariance = auc_covariance(*models)
    slow_areas, slow_covariance = slow_delong(*models)
    np.testing.assert_allclose(areas, slow_areas, rtol=1e-12)
    np.testing.assert_allclose(covariance, slow_covariance, rtol=1e-10)
    assert covariance[0, 1] > 0.2 * covariance[0, 0]


def test_by_hand():
    """Two positive at 3, 1 and two negative at 2, 0: V10 is 1, 1/2 and V01 is 1/2, 1, each of variance 1/8."""
    areas, covariance = auc_covariance(np.array([True, True, False, False]), np.array([[3.0, 1.0, 2.0, 0.0]]))
    assert (areas[0], covariance[0, 0]) == (0.75, pytest.approx(1 / 8 / 2 + 1 / 8 / 2))


def test_z_and_p_follow_from_it(models):
    test = compare_aucs(*models)
    areas, c = slow_delong(*models)
    error = math.sqrt(c[0, 0] + c[1, 1] - 2 * c[0, 1])
    assert test["value"] == pytest.approx(areas[1] - areas[0])
    assert test["z"] == pytest.approx(test["value"] / error)
    assert test["interval"] == pytest.approx([test["value"] - 1.959964 * error, test["value"] + 1.959964 * error])
    assert test["p"] == pytest.approx(math.erfc(abs(test["z"]) / math.sqrt(2)))


def test_scans_of_a_patient_are_not_counted_as_new_patients(models):
    positive, scores = models
    patients = [f"P{number}" for number in range(40)]
    _, once = auc_covariance(positive, scores, patients=patients)
    _, twice = auc_covariance(np.repeat(positive, 2), np.repeat(scores, 2, axis=1), patients=np.repeat(patients, 2))
    np.testing.assert_allclose(twice, once, rtol=1e-10)
    _, ignorant = auc_covariance(np.repeat(positive, 2), np.repeat(scores, 2, axis=1))
    assert ignorant[0, 0] < 0.6 * once[0, 0]


def test_patients_with_both_classes_agree_with_their_bootstrap():
    """Each patient has a scan before and one after; the normal interval and the bootstrap see the same spread."""
    rng = np.random.default_rng(2)
    patients = [f"P{number}" for number in range(60) for _ in range(2)]
    positive = np.tile([False, True], 60)
    scores = np.repeat(rng.normal(size=60), 2) + positive + rng.normal(size=120) / 2
    _, covariance = auc_covariance(positive, scores[None], patients=patients)
    draws = PatientDraws.of(patients, resamples=2000, seed=0)
    sampled = draws.values(Measure(name="auc", compute=lambda w: auc(positive, scores, w), needs=""))
    assert math.sqrt(covariance[0, 0]) == pytest.approx(sampled.std(), rel=0.1)
    _, ignorant = auc_covariance(positive, scores[None])
    assert ignorant[0, 0] > 1.5 * covariance[0, 0]  # shared differences between patients cancel


@pytest.mark.parametrize(
    ("positive", "scores", "why"),
    [
        ([True, True, True], [[1, 2, 3], [3, 2, 1]], "both classes"),
        ([True, False, False], [[1, 2, 3], [3, 2, 1]], "at least 2 patients"),
        ([True, True, False, False], [[4, 3, 2, 1], [4, 3, 2, 1]], "rank all cases alike"),
        ([True, True, False, False], [[4, 3, 2, 1], [1, 2, 3, 4]], "the variance is 0"),
    ],
)
def test_what_cannot_be_tested_says_why(positive, scores, why):
    test = compare_aucs(np.array(positive), np.array(scores, dtype=float))
    assert test["interval"] is None and test["p"] is None and why in test["note"]


def test_two_equal_models_differ_in_one_study_of_twenty():
    rng = np.random.default_rng(4)
    positive = np.arange(60) < 30
    wrong = 0
    for _ in range(300):
        shared = rng.normal(size=60) + positive
        wrong += compare_aucs(positive, np.stack([shared + rng.normal(size=60) for _ in range(2)]))["p"] < 0.05
    assert 4 <= wrong <= 28
