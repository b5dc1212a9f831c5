"""Curves against scikit-learn and hand-computed cases."""

import numpy as np
import pytest
from sklearn import metrics as sk

from bdfm_nnunet.evaluation import subject_curves as ours
from bdfm_nnunet.evaluation.subject_bootstrap import PatientDraws
from bdfm_nnunet.evaluation.subject_units import units_of
from tests.evaluation.test_subject_units import GRADE, IDH, OS, column, grades


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    positive = rng.random(50) < 0.4
    return positive, np.round((positive + rng.normal(size=50)) / 4 + 0.4, 1).clip(0, 1)


def test_roc_is_scikit_learns(cases):
    false, true, _ = sk.roc_curve(*cases, drop_intermediate=False)
    for own, theirs in zip(ours.roc_curve(*cases), (false, true)):
        np.testing.assert_allclose(own, theirs)


def test_precision_and_recall_are_scikit_learns(cases):
    precision, recall, _ = sk.precision_recall_curve(*cases)
    found = ours.precision_recall_curve(*cases)
    np.testing.assert_allclose(found[0], recall[:-1][::-1])
    np.testing.assert_allclose(found[1], precision[:-1][::-1])


def test_calibration_has_intervals_over_patients(cases):
    positive, p = cases
    draws = PatientDraws.of([str(n // 2) for n in range(50)], resamples=200, seed=0)
    curve = ours.calibration_curve(positive, p, draws)
    assert sum(each["n"] for each in curve) == 50
    for each in curve:
        inside = ((p > each["bin"][0] + 1e-9) | (each["bin"][0] == 0)) & (p <= each["bin"][1] + 1e-9)
        assert each["frequency"] == positive[inside].mean() and each["probability"] == pytest.approx(p[inside].mean())
        if each["interval"]:
            assert each["interval"][0] <= each["frequency"] <= each["interval"][1]
    assert any(each["interval"] and np.ptp(each["interval"]) > 0.1 for each in curve)


def test_classes_are_told_from_the_rest():
    two = units_of(IDH, column(0, 1), {"idh": np.array([0.2, 0.7])}, patients="ab")
    assert [(name, there.tolist(), p.tolist()) for name, (there, p) in ours.class_scores(two).items()] == [
        ("mutant", [False, True], [0.2, 0.7])
    ]
    several = units_of(GRADE, column(0, 2), grades([0.5, 0.2, 0.3], [0.1, 0.2, 0.7]), patients="ab")
    assert list(ours.class_scores(several)) == ["2", "4"]
    assert ours.class_scores(units_of(GRADE, column(0, 2), {"grade": np.array(["2", "4"])}, patients="ab")) == {}
    one_class = units_of(IDH, column(1, 1), {"idh": np.array([0.2, 0.7])}, patients="ab")
    assert ours.class_scores(one_class) == {} and ours.calibration_of(one_class) == {}


def survival(times, events, risks):
    truth = np.stack([np.array(times, dtype=float), np.array(events, dtype=float)], axis=1)
    patients = [str(n) for n in range(len(times))]
    return units_of(OS, truth, {"os": np.array(risks, dtype=float)}, patients=patients)


def test_survival_curve_by_hand():
    """At risk 4, 3, 1; S = 3/4, 3/4 * 2/3; Greenwood of the first is 1/12, its band 0.75^exp(+-1.96 sqrt(1/12)/log)."""
    curve = ours.survival_curve(survival([1, 2, 2, 3], [1, 1, 0, 0], range(4)))
    np.testing.assert_allclose(curve["share"], [1, 0.75, 0.5, 0.5])
    factor = np.exp(1.959964 * np.sqrt(1 / 12) / -np.log(0.75))
    assert curve["low"][1] == pytest.approx(0.75**factor) and curve["high"][1] == pytest.approx(0.75 ** (1 / factor))
    assert (curve["low"] <= curve["share"]).all() and (curve["share"] <= curve["high"]).all()
    assert curve["censored"].tolist() == [2, 3]


def test_numbers_at_risk():
    units = survival([1, 2, 2, 3], [1, 1, 0, 0], range(4))
    assert ours.at_risk_at(units, np.array([0, 1, 1.5, 2, 3, 4])) == [4, 4, 3, 3, 1, 0]


def test_risk_groups_are_of_equal_size_and_in_order():
    rng = np.random.default_rng(0)
    for count, names in ((10, ["low risk", "high risk"]), (90, ["low risk", "middle risk", "high risk"])):
        units = survival(rng.exponential(size=count), np.ones(count), rng.normal(size=count))
        groups = ours.risk_groups(units)
        assert list(groups) == names and {len(rows) for rows in groups.values()} == {count // len(names)}
        means = [units.values[rows].mean() for rows in groups.values()]
        assert means == sorted(means)
    assert list(ours.risk_groups(survival([1, 2], [1, 1], [3, 3]))) == ["low risk"]
    assert ours.risk_groups(survival([], [], [])) == {}
