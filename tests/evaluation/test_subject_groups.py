"""Scores by group and their differences."""

import json

import numpy as np
import pytest

from bdfm_nnunet.evaluation.subject_groups import bands, group_of_units, score_groups
from bdfm_nnunet.evaluation.subject_scores import score_target
from bdfm_nnunet.evaluation.subject_units import units_of
from tests.evaluation.test_subject_units import AGE, IDH

N = 80
CASES = [f"c{number:02}" for number in range(N)]


@pytest.fixture(scope="module")
def units():
    """Predictions that are right for the first 50 cases, and chance for the others."""
    rng = np.random.default_rng(0)
    truth = (np.arange(N) % 2).astype(float)
    p = np.where(np.arange(N) < 50, 0.5 + 0.3 * (truth - 0.5) + 0.1 * rng.normal(size=N), rng.random(N)).clip(0, 1)
    return units_of(IDH, truth[:, None], {"idh": p}, patients=[f"P{n}" for n in range(N)], cases=CASES)


def test_groups_have_the_scores_of_their_cases_alone(units):
    groups = dict.fromkeys(CASES[:50], "A") | dict.fromkeys(CASES[50:76], "B")
    found = score_groups(units, groups, resamples=300)
    alone = score_target(IDH, units.truth[:50], {"idh": units.values[:50]}, patients=units.patients[:50], resamples=300)
    for name, score in found["groups"]["A"]["measures"].items():
        assert score["value"] == pytest.approx(alone[name]["value"]), name
        assert score["interval"] == pytest.approx(alone[name]["interval"], abs=0.08), name
    assert (found["reference"], found["unknown"], found["groups"]["B"]["n"]) == ("A", 4, 26)
    change = found["differences"]["B"]["auc"]
    scores = [found["groups"][name]["measures"]["auc"]["value"] for name in "AB"]
    assert change["value"] == pytest.approx(scores[1] - scores[0]) and change["interval"][1] < 0 and change["p"] < 0.05
    json.dumps(found, allow_nan=False)


def test_groups_that_are_alike_do_not_differ(units):
    found = score_groups(units, {case: "AB"[at // 2 % 2] for at, case in enumerate(CASES)}, resamples=300)
    low, high = next(iter(found["differences"].values()))["auc"]["interval"]
    assert low < 0 < high


def test_the_reference_can_be_chosen(units):
    groups = dict.fromkeys(CASES[:50], "A") | dict.fromkeys(CASES[50:76], "B")
    to_a, to_b = (score_groups(units, groups, resamples=20, reference=name) for name in "AB")
    assert to_b["reference"] == "B" and set(to_b["differences"]) == {"A"}
    assert to_b["differences"]["A"]["auc"]["value"] == -to_a["differences"]["B"]["auc"]["value"]
    assert score_groups(units, groups, resamples=20, reference="C")["reference"] == "A"


def test_small_groups_say_so(units):
    groups = dict.fromkeys(CASES, "A") | dict.fromkeys(CASES[:3], "B") | {CASES[4]: "C"}
    found = score_groups(units, groups, resamples=50)
    assert found["groups"]["A"]["note"] == ""
    assert found["groups"]["B"]["note"] == "small group: 3 patients; few cases: 2 of wildtype, 1 of mutant"
    one = found["groups"]["C"]["measures"]
    assert one["auc"]["value"] is None and "both classes" in one["auc"]["note"]
    assert found["differences"]["C"]["auc"]["value"] is None


def test_a_patient_of_two_groups_counts_in_both_and_is_drawn_once():
    """Scans of each patient on two scanners, the second always 5 years worse: the difference is sure."""
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.normal(60, 8, 30), 2)
    errors = np.repeat(rng.normal(10, 1, 30), 2) + np.tile([0, 5], 30)
    cases = [f"c{n}" for n in range(60)]
    patients = np.repeat([f"P{n}" for n in range(30)], 2).tolist()
    units = units_of(AGE, truth[:, None], {"age": truth + errors}, patients=patients, cases=cases)
    found = score_groups(units, {case: ("old", "new")[at % 2] for at, case in enumerate(cases)}, resamples=100)
    (change,) = found["differences"].values()
    np.testing.assert_allclose(np.abs(change["mae"]["interval"]), 5)
    merged = units_of(AGE, truth[:, None], {"age": truth}, patients=patients, cases=cases, aggregate="mean")
    assert set(group_of_units(merged, {"c0": "old", "c1": "new", "c2": "old"})) == {"several", "old", ""}


def test_no_groups_give_no_table(units):
    found = score_groups(units, {}, resamples=10)
    assert found == {"groups": {}, "reference": None, "differences": {}, "unknown": N}


def test_bands_hold_every_number_once():
    values = {f"c{n}": float(n) for n in range(9)} | {"none": float("nan")}
    found = bands(values)
    assert (
        set(found) == set(values) - {"none"} and sorted(map(list(found.values()).count, set(found.values()))) == [3] * 3
    )
    assert bands({"a": 2.0, "b": 2.0}) == {"a": "2", "b": "2"} and bands({}) == {}
