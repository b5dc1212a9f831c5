"""Intervals over patients: how often they hold the truth, what they leave out, and what they say about it."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation.class_measures import auc, weighted_mean
from bdfm_nnunet.evaluation.subject_bootstrap import (
    Measure,
    PatientDraws,
    difference,
    estimate,
    interval_of,
)


def mean_of(values, name="mean"):
    values = np.asarray(values, dtype=float)
    return Measure(name=name, compute=lambda w: weighted_mean(values, w), needs="a case")


def test_all_scans_of_a_patient_are_drawn_together():
    patients = ["a", "b", "a", "c", "a"]
    draws = PatientDraws.of(patients, resamples=50, seed=1)
    weights = draws.weights()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all() and np.ptp(weights) >= 2
    assert (draws.count(), draws.count(np.array([0, 2, 3]))) == (3, 2)


def test_draws_depend_on_the_seed_alone():
    first, again, other = (PatientDraws.of("abcde", resamples=20, seed=seed).weights() for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_pieces_of_the_resamples_give_the_same(monkeypatch):
    from bdfm_nnunet.evaluation import subject_bootstrap

    draws, measure = PatientDraws.of("abcdefgh", resamples=30, seed=0), mean_of(range(8))
    whole = draws.values(measure)
    monkeypatch.setattr(subject_bootstrap, "_MOST_NUMBERS", 50)
    np.testing.assert_array_equal(draws.values(measure), whole)
    assert len(whole) == 30 and np.ptp(whole) > 0


@pytest.mark.parametrize("scans", [1, 4])
def test_the_interval_of_an_auc_holds_the_truth_nineteen_times_of_twenty(scans):
    """True AUC of normal scores a standard deviation apart is 0.7602; scans of a patient share its score's error."""
    rng, patients, held = np.random.default_rng(8), 60, 0
    positive = np.repeat(np.arange(patients) < 25, scans)
    names = [f"P{number}" for number in range(patients) for _ in range(scans)]
    for seed in range(150):
        noise = np.repeat(rng.normal(size=patients), scans) * 0.95**0.5 + rng.normal(size=len(names)) * 0.05**0.5
        scores = positive + noise
        measure = Measure(name="auc", compute=lambda w, s=scores: auc(positive, s, w), needs="")
        low, high = estimate(measure, PatientDraws.of(names, resamples=200, seed=seed))["interval"]
        held += low <= 0.7602 <= high
    assert 131 <= held <= 149


def test_ignoring_patients_would_hold_it_far_less_often():
    """The same scans taken for patients give an interval about half as wide: what drawing patients is for."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=30), 4)
    together = estimate(
        mean_of(values), PatientDraws.of(np.repeat(np.arange(30), 4).astype(str), resamples=500, seed=0)
    )
    apart = estimate(mean_of(values), PatientDraws.of([str(n) for n in range(120)], resamples=500, seed=0))
    assert np.diff(apart["interval"]) < 0.65 * np.diff(together["interval"])


def test_resamples_without_a_class_are_left_out_and_counted():
    positive, scores = np.array([True, *[False] * 24]), np.arange(25, 0, -1.0)
    measure = Measure(name="auc", compute=lambda w: auc(positive, scores, w), needs="cases of both classes")
    found = estimate(measure, PatientDraws.of([str(n) for n in range(25)], resamples=1000, seed=0))
    assert 310 <= found["undefined_resamples"] <= 430  # (24/25)^25 of them
    assert f"{found['undefined_resamples']} of 1000 resamples" in found["note"]
    assert (found["value"], found["interval"]) == (1.0, [1.0, 1.0]) and "not of certainty" in found["note"]


@pytest.mark.parametrize(
    ("sampled", "patients", "why"),
    [
        ([0.5, 0.6], 1, "at least 2 patients"),
        ([np.nan, np.nan, 0.5], 30, "only 1 of 3 resamples"),
        ([], 30, "only 0 of 0 resamples"),
    ],
)
def test_no_interval_is_better_than_a_wrong_one(sampled, patients, why):
    interval, told = interval_of(np.array(sampled), patients)
    assert interval is None and why in told[0]


def test_few_patients_are_named():
    found = estimate(mean_of(range(6)), PatientDraws.of("abcdef", resamples=100, seed=0))
    assert "only 6 patients" in found["note"] and found["patients"] == 6


def test_what_is_not_defined_is_none_with_a_reason():
    found = estimate(mean_of([np.nan, 1.0]), PatientDraws.of("ab", resamples=10, seed=0))
    assert (found["value"], found["interval"]) == (None, None)
    assert found["note"] == "not defined: it needs a case"


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=50)
    first, second = mean_of(shared), mean_of(shared + 0.1 + rng.normal(size=50) / 20)
    draws = PatientDraws.of([str(n) for n in range(50)], resamples=500, seed=0)
    change = difference(first, second, draws)
    low, high = change["interval"]
    assert 0 < low < 0.1 < high and high - low < 0.1 * np.diff(estimate(first, draws)["interval"])[0]
    assert change["p"] == pytest.approx(2 / 501)
    back = difference(second, first, draws)
    assert back["value"] == -change["value"] and back["p"] == change["p"]


def test_a_difference_of_groups_draws_patients_that_are_in_both():
    values = np.array([1.0, 2, 3, 11, 12, 13])
    rows = {"first": np.arange(3), "second": np.arange(3, 6)}
    draws = PatientDraws.of("abcabc", resamples=200, seed=0)
    change = difference(mean_of(values[:3]), mean_of(values[3:]), draws, rows)
    np.testing.assert_allclose(change["interval"], [10, 10])
    apart = difference(mean_of(values[:3]), mean_of(values[3:]), PatientDraws.of("abcdef", resamples=200, seed=0), rows)
    assert np.diff(apart["interval"])[0] > 0.5


def test_a_difference_that_is_not_defined_says_so():
    draws = PatientDraws.of("ab", resamples=10, seed=0)
    change = difference(mean_of([1.0, 2]), mean_of([np.nan, 1]), draws)
    assert change["value"] is None and change["p"] is None and "not defined" in change["note"]
