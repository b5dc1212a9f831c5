"""What is scored: cases with values on both sides, scans of patients put together, and columns that do not fit."""

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.targets import TargetColumn, TargetType

IDH = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
GRADE = TargetColumn("grade", TargetType.ORDINAL, ("2", "3", "4"))
AGE = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
OS = TargetColumn("os", TargetType.SURVIVAL, unit="days")


def column(*values):
    return np.array(values, dtype=float)[:, None]


def grades(*rows, named=None):
    found = {f"grade={name}": np.array([row[at] for row in rows], dtype=float) for at, name in enumerate("234")}
    names = np.array(["234"[int(np.argmax(row))] for row in rows] if named is None else named)
    return {"grade": names, **found}


def test_cases_without_a_value_or_a_prediction_are_left_out_and_counted():
    units = units_of(AGE, column(1, np.nan, 3, np.nan), {"age": np.array([5, 6, np.nan, np.nan])}, patients="abcd")
    assert (units.values.tolist(), units.truth.tolist(), units.patients) == ([5], [[1]], ("a",))
    assert units.left_out == {"no true value": 2, "no prediction": 1}


@pytest.mark.parametrize(("how", "value"), [("mean", 0.3), ("median", 0.2), ("max", 0.6)])
def test_scans_of_a_patient_become_one(how, value):
    predicted = {"idh": np.array([0.1, 0.9, 0.2, 0.6])}
    units = units_of(IDH, column(0, 1, 0, 0), predicted, patients="abaa", cases=list("wxyz"), aggregate=how)
    assert units.values.tolist() == pytest.approx([value, 0.9])
    assert (units.patients, units.cases) == (("a", "b"), (("w", "y", "z"), ("x",)))


def test_a_run_of_more_clips_weighs_more():
    clips = np.array([3.0, 1, 1])
    ages = units_of(
        AGE, column(1, 1, 5), {"age": np.array([10.0, 20, 7])}, patients="aab", counts=clips, aggregate="mean"
    )
    assert ages.values.tolist() == [12.5, 7]
    most = units_of(
        AGE, column(1, 1, 5), {"age": np.array([10.0, 20, 7])}, patients="aab", counts=clips, aggregate="max"
    )
    assert most.values.tolist() == [20, 7]
    rows = ([0.5, 0.1, 0.4], [0.1, 0.1, 0.8])
    likeliest = units_of(GRADE, column(0, 0), grades(*rows), patients="aa", counts=clips[:2], aggregate="mean")
    assert likeliest.chosen.tolist() == [2] and likeliest.probabilities[0] == pytest.approx([0.4, 0.1, 0.5])
    named = {"grade": np.array(["4", "3", "3"])}
    assert units_of(GRADE, column(0, 0, 0), named, patients="aaa", counts=clips, aggregate="mean").chosen.tolist() == [
        2
    ]


@pytest.mark.parametrize(
    ("clips", "why"), [([1.0, 0], "case y 0 clips"), ([np.nan, 1], "case x nan clips"), (["a", "b"], "texts like 'a'")]
)
def test_clips_are_numbers_above_0(clips, why):
    with pytest.raises(InputError, match=why):
        units_of(AGE, column(1, 1), {"age": np.ones(2)}, patients="aa", cases=["x", "y"], counts=np.array(clips))


def test_scans_with_different_true_values_stay_apart():
    predicted = {"age": np.array([60.0, 62, 65])}
    units = units_of(AGE, column(61, 61, 66), predicted, patients="aaa", aggregate="mean")
    assert (units.values.tolist(), units.patients) == ([61, 65], ("a", "a"))


def test_without_aggregation_each_case_counts():
    assert len(units_of(AGE, column(1, 1), {"age": np.array([1.0, 2])}, patients="aa")) == 2


def test_class_of_several_scans_is_the_agreed_or_the_likeliest():
    rows = ([0.5, 0.1, 0.4], [0.0, 0.4, 0.6], [0.4, 0.35, 0.25])
    both = units_of(GRADE, column(0, 0, 2), grades(*rows), patients="aab", aggregate="mean")
    assert both.chosen.tolist() == [2, 0]  # the likeliest of the mean; one scan
    np.testing.assert_allclose(both.probabilities[0], [0.25, 0.25, 0.5])
    agreed = units_of(GRADE, column(0, 0), grades(*rows[:2], named=["3", "3"]), patients="aa", aggregate="mean")
    assert agreed.chosen.tolist() == [1]  # what the table says, where its rule is not the likeliest
    largest = units_of(GRADE, column(0, 0), grades(*rows[:2]), patients="aa", aggregate="max")
    assert largest.probabilities.sum() == pytest.approx(1)


def test_classes_alone_will_do():
    predicted = {"grade": np.array([2.0, 4.0, np.nan])}  # read as numbers, as no column of probabilities is there
    units = units_of(GRADE, column(0, 2, 1), predicted, patients="abc")
    assert units.probabilities is None and units.chosen.tolist() == [0, 2]
    assert units.left_out == {"no prediction": 1}
    several = units_of(GRADE, column(0, 0, 0), {"grade": np.array(["4", "3", "4"])}, patients="aaa", aggregate="mean")
    assert several.chosen.tolist() == [2]


def test_survival_has_its_times_in_order():
    predicted = {"os": np.array([1.0, 2]), "os@730": np.array([0.2, 0.1]), "os@365": np.array([0.6, 0.5])}
    truth = np.array([[400.0, 1], [800, 0]])
    units = units_of(OS, truth, predicted, patients="ab")
    assert units.times.tolist() == [365, 730]
    np.testing.assert_array_equal(units.survival, [[0.6, 0.2], [0.5, 0.1]])
    none = units_of(OS, truth, {"os": np.array([1.0, 2])}, patients="aa", aggregate="mean")
    assert len(none) == 2 and none.survival.shape == (2, 0)


def test_some_can_be_taken():
    rows = ([0.5, 0.1, 0.4], [0.0, 0.4, 0.6], [0.4, 0.35, 0.25])
    units = units_of(GRADE, column(0, 1, 2), grades(*rows), patients="abc").taken([2, 0])
    assert (units.patients, units.chosen.tolist(), units.truth.ravel().tolist()) == (("c", "a"), [0, 0], [2, 0])
    np.testing.assert_array_equal(units.probabilities, [rows[2], rows[0]])


@pytest.mark.parametrize(
    ("target", "predicted", "why"),
    [
        (IDH, {"idh": np.array([0.2, 1.4])}, "gives case y the idh 1.4, expected a probability"),
        (IDH, {"idh": np.array(["mutant", "wildtype"])}, "texts like 'mutant'"),
        (GRADE, {"grade": np.array(["2", "5"])}, "case y the grade '5', expected one of 2, 3, 4"),
        (GRADE, grades([0.5, 0.2, 0.3], [0.5, 0.5, 0.5]), "case y probabilities of grade whose sum is 1.5"),
        (GRADE, {"grade": np.array(["2", "2"]), "grade=2": np.ones(2)}, "no column 'grade=3', though it has 'grade=2'"),
        (OS, {"os": np.zeros(2), "os@soon": np.zeros(2)}, "a column 'os@soon', expected os@TIME"),
        (OS, {"os": np.zeros(2), "os@9": np.array([0.0, -3.0])}, "gives case y the os@9 -3"),
    ],
)
def test_columns_that_do_not_fit_the_type_are_refused(target, predicted, why):
    truth = np.zeros((2, target.type.width))
    with pytest.raises(InputError, match=why):
        units_of(target, truth, predicted, patients="ab", cases=["x", "y"])
