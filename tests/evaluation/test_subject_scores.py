"""Scores of targets of every type, and the comparison of two models."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from bdfm_nnunet.evaluation.delong import compare_aucs
from bdfm_nnunet.evaluation.subject_measures import MEASURES
from bdfm_nnunet.evaluation.subject_scores import compare_units, score_target, score_units
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.targets import TargetColumn, TargetType
from tests.evaluation.test_subject_units import AGE, GRADE, IDH, OS

N = 60
PATIENTS = [f"P{number // 2}" for number in range(N)]
STAGE = TargetColumn("stage", TargetType.MULTICLASS, ("a", "b", "c"))


def made_up(column, seed=0):
    """True values, and predictions that are right more often than by chance."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=N)
    if column.type is TargetType.BINARY:
        truth = (rng.random(N) < 0.4).astype(float)
        return truth[:, None], {column.name: 1 / (1 + np.exp(-2 * (truth - 0.5) - noise))}
    if column.type is TargetType.CONTINUOUS:
        truth = rng.normal(60, 10, N)
        return truth[:, None], {column.name: truth + 5 * noise}
    if column.type is TargetType.SURVIVAL:
        time, rate = np.ceil(rng.exponential(500, N)), np.exp(noise / 3) / 500
        curves = {f"{column.name}@{t}": np.exp(-rate * t) for t in (200, 400)}
        return np.stack([time, rng.random(N) < 0.7], axis=1), {column.name: noise - time / 300, **curves}
    truth = rng.integers(0, 3, N)
    p = rng.dirichlet(np.ones(3), N) + 0.5 * np.eye(3)[truth]
    p /= p.sum(axis=1, keepdims=True)
    names = {f"{column.name}={name}": p[:, at] for at, name in enumerate(column.classes)}
    return truth[:, None].astype(float), {column.name: np.array(column.classes)[p.argmax(axis=1)], **names}


@pytest.mark.parametrize("column", [IDH, GRADE, STAGE, AGE, OS], ids=lambda column: str(column.type))
def test_every_measure_of_a_type_has_value_and_interval(column):
    truth, predicted = made_up(column)
    scores = score_target(column, truth, predicted, patients=PATIENTS, resamples=200)
    assert tuple(scores) == MEASURES[column.type]
    for name, found in scores.items():
        low, high = found["interval"]
        assert low < found["value"] < high or name == "ece", name  # resampling adds to its bias
        assert (found["n"], found["patients"]) == (N, N // 2)
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize("column", [IDH, GRADE, STAGE, AGE, OS], ids=lambda column: str(column.type))
def test_nothing_to_score_is_none_with_a_reason(column):
    truth, predicted = made_up(column)
    nothing = score_target(column, truth * np.nan, predicted, patients=PATIENTS)
    assert tuple(nothing) == MEASURES[column.type]
    for found in nothing.values():
        assert (found["value"], found["n"]) == (None, 0) and "60 cases left out (no true value)" in found["note"]
    one = score_target(column, truth[:1], {key: part[:1] for key, part in predicted.items()}, patients=["P0"])
    assert all(found["interval"] is None for found in one.values())
    assert next(iter(one.values()))["value"] is None or column is AGE
    json.dumps([nothing, one], allow_nan=False)


def test_scores_of_several_classes_are_scikit_learns():
    truth, predicted = made_up(STAGE)
    p = np.stack([predicted[f"stage={name}"] for name in "abc"], axis=1)
    t, chosen = truth[:, 0].astype(int), p.argmax(axis=1)
    scores = score_target(STAGE, truth, predicted, patients=PATIENTS, resamples=0)
    assert scores["auc"]["value"] == pytest.approx(sk.roc_auc_score(t, p, multi_class="ovr", average="macro"))
    assert scores["average_precision"]["value"] == pytest.approx(sk.average_precision_score(np.eye(3)[t], p))
    assert scores["f1"]["value"] == pytest.approx(sk.f1_score(t, chosen, average="macro"))
    assert scores["auc"]["interval"] is None


def test_a_class_without_cases_is_named_and_the_others_are_scored():
    truth, predicted = made_up(STAGE)
    keep = truth[:, 0] != 1
    some = {key: part[keep] for key, part in predicted.items()}
    scores = score_target(STAGE, truth[keep], some, patients=[str(n) for n in range(keep.sum())], resamples=100)
    expected = np.mean([sk.roc_auc_score(truth[keep, 0] == at, some[f"stage={'abc'[at]}"]) for at in (0, 2)])
    assert scores["auc"]["value"] == pytest.approx(expected)
    assert "without b (no case)" in scores["auc"]["note"] and "without b" in scores["balanced_accuracy"]["note"]


def test_one_class_leaves_what_needs_two_undefined():
    truth, predicted = made_up(IDH)
    scores = score_target(IDH, truth * 0, predicted, patients=PATIENTS, resamples=50)
    assert {name for name, found in scores.items() if found["value"] is None} == {
        "auc", "average_precision", "balanced_accuracy", "f1"
    }  # fmt: skip
    assert scores["auc"]["note"] == "not defined: it needs cases of both classes"
    assert scores["brier"]["interval"] is not None


def test_the_threshold_acts_and_is_told():
    truth, predicted = made_up(IDH)
    for threshold in (0.5, 0.3):
        scores = score_target(IDH, truth, predicted, patients=PATIENTS, resamples=0, threshold=threshold)
        chosen = predicted["idh"] >= threshold
        assert scores["balanced_accuracy"]["value"] == pytest.approx(sk.balanced_accuracy_score(truth[:, 0], chosen))
        assert scores["f1"]["value"] == pytest.approx(sk.f1_score(truth[:, 0], chosen))
        assert f"threshold of {threshold:g}" in scores["f1"]["note"]


def test_classes_alone_are_scored_as_far_as_they_go():
    truth, predicted = made_up(GRADE)
    scores = score_target(GRADE, truth, {"grade": predicted["grade"]}, patients=PATIENTS, resamples=0)
    assert scores["auc"]["value"] is None and "probabilities of the classes" in scores["auc"]["note"]
    assert scores["weighted_kappa"]["value"] > 0.3


def test_times_after_the_longest_follow_up_are_left_out_and_named():
    truth, predicted = made_up(OS)
    with_late = {**predicted, "os@99999": np.zeros(N)}
    scores = [score_target(OS, truth, each, patients=PATIENTS, resamples=0) for each in (predicted, with_late)]
    assert scores[0]["integrated_brier"]["value"] == scores[1]["integrated_brier"]["value"]
    assert "without 99999 (after the longest follow-up)" in scores[1]["integrated_brier"]["note"]
    risk_alone = score_target(OS, truth, {"os": predicted["os"]}, patients=PATIENTS, resamples=0)
    assert risk_alone["integrated_brier"]["value"] is None and "os@TIME" in risk_alone["integrated_brier"]["note"]


def test_permuted_labels_are_chance():
    """Over 25 permutations, AUC is 0.5, C-index 0.5, kappa and correlation 0 on average, and intervals hold that."""
    rng = np.random.default_rng(0)
    for column, measure, chance in (
        (IDH, "auc", 0.5),
        (OS, "c_index", 0.5),
        (GRADE, "weighted_kappa", 0),
        (AGE, "pearson", 0),
    ):
        truth, predicted = made_up(column)
        found = [
            score_target(
                column, truth[rng.permutation(N)], predicted, patients=[str(n) for n in range(N)], resamples=100
            )
            for _ in range(25)
        ]
        assert np.mean([each[measure]["value"] for each in found]) == pytest.approx(chance, abs=0.05), measure
        held = sum(each[measure]["interval"][0] <= chance <= each[measure]["interval"][1] for each in found)
        assert held >= 20, measure


def test_two_models_are_compared_on_the_same_draws():
    truth, first = made_up(IDH)
    _, second = made_up(IDH, seed=1)
    units = [units_of(IDH, truth, each, patients=PATIENTS) for each in (first, second)]
    change = compare_units(*units, resamples=300)
    scores = [score_units(each, resamples=300) for each in units]
    for name in MEASURES[IDH.type]:
        assert change[name]["value"] == pytest.approx(scores[1][name]["value"] - scores[0][name]["value"])
    own = compare_aucs(truth[:, 0] == 1, np.stack([first["idh"], second["idh"]]), patients=PATIENTS)
    assert change["auc"] == own and change["brier"]["p"] is not None
    same = compare_units(units[0], units[0], resamples=50)
    assert same["brier"]["interval"] == [0, 0] and same["brier"]["p"] == 1


def test_models_of_other_cases_are_not_compared():
    truth, predicted = made_up(AGE)
    units = units_of(AGE, truth, predicted, patients=PATIENTS)
    with pytest.raises(ValueError, match="the same cases"):
        compare_units(units, units.taken(range(N - 1)))
