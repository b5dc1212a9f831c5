"""The table of predictions: what is written is read back, and what is no such table is refused with a sentence."""

from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions, read_predictions, write_predictions


def table(cases, **columns):
    return Predictions(tuple(cases), tuple(f"P{case}" for case in cases), columns)


def test_what_is_written_is_read_back(tmp_path):
    columns = {
        "idh": np.array([0.1, np.nan, 1 / 3]),
        "grade": np.array(["2", "", "4"]),
        "grade=2": np.array([0.7, np.nan, 0.1]),
        "grade=4": np.array([0.3, np.nan, 0.9]),
        "status": np.array(["-", "+", "=x"]),
        "os": np.array([-1.5, 2.0, 0.0]),
        "os@365": np.array([0.5, 0.25, 1e-17]),
        "os spread": np.array([0.1, 0.2, 0.3]),
    }
    write_predictions(tmp_path / "subjects.csv", table(["b", "a", "=c"], **columns))
    found = read_predictions(tmp_path / "subjects.csv")
    assert (found.cases, found.patients) == (("b", "a", "=c"), ("Pb", "Pa", "P=c"))
    assert list(found.columns) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(found.columns[name], values)
    assert "'-" in (tmp_path / "subjects.csv").read_text()  # no spreadsheet takes it for a formula


def test_a_target_has_its_columns_and_no_other_ones(tmp_path):
    columns = {name: np.zeros(1) for name in ("os", "os@1", "os spread", "os2", "os2@1", "os=low")}
    assert set(table(["a"], **columns).of("os")) == {"os", "os@1", "os=low"}
    with pytest.raises(InputError, match="no column 'age', only os, "):
        table(["a"], **columns).of("age")


def test_rows_can_be_taken(tmp_path):
    some = table(["a", "b", "c"], age=np.array([1.0, 2, 3])).taken(["c", "a"])
    assert (some.patients, some.columns["age"].tolist()) == (("Pc", "Pa"), [3, 1])


def test_folds_are_joined_whatever_the_order_of_their_columns(tmp_path):
    write_predictions(tmp_path / "0.csv", table(["a", "b"], x=np.array([1.0, 2]), y=np.array([3.0, 4])))
    write_predictions(tmp_path / "1.csv", table(["c"], y=np.array([6.0]), x=np.array([5.0])))
    found = read_predictions(tmp_path / "0.csv", tmp_path / "1.csv")
    assert (found.cases, found.columns["x"].tolist()) == (("a", "b", "c"), [1, 2, 5])
    assert "0.csv" in found.source and "1.csv" in found.source


def test_folds_with_other_times_and_a_table_of_an_ensemble_are_joined(tmp_path):
    one = {"os": np.array([1.0]), "os@10": np.array([0.8]), "os@30": np.array([0.2])}
    two = {"os": np.array([2.0]), "os spread": np.array([0.1]), "os@20": np.array([0.4])}
    write_predictions(tmp_path / "0.csv", table(["a"], **one))
    write_predictions(tmp_path / "1.csv", table(["b"], **two))
    found = read_predictions(tmp_path / "0.csv", tmp_path / "1.csv")
    assert set(found.columns) == {"os", "os@10", "os@20"}
    np.testing.assert_allclose(found.columns["os@10"], [0.8, 0.7])
    np.testing.assert_allclose(found.columns["os@20"], [0.5, 0.4])
    assert "os spread" in read_predictions(tmp_path / "1.csv").columns


def test_other_delimiters_and_no_patients(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffcase;age\na;64.5\nb;NA\n")
    found = read_predictions(tmp_path / "t.csv")
    assert found.patients == ("a", "b")
    np.testing.assert_array_equal(found.columns["age"], [64.5, np.nan])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("subject,age\na,1\n", "no column `case`"),
        ("case,age,age\na,1,2\n", "two columns 'age'"),
        ("case,patient,age\n", "no case below its header"),
        ("", "no column `case`"),
        ("case,age\na,1\na,2\n", "case a is in .*t.csv twice"),
        ("case,age\n,1\nb,2\n", "names no case in row 2"),
        ("case,age\na,1\nb,old\n", "case b the age 'old', expected a number"),
        ("case;age\na;64,5\nb;63,1\nc;1\n", "case a the age '64,5', expected a number with a point"),
        ("case,age\na,inf\nb,1\n", "case a the age 'inf'"),
        ("case,g,g=x\na,x,high\n", "the g=x 'high'"),
        ("case,os,os@1\na,1,low\n", "the os@1 'low'"),
        ("case,age\na,1,2\nb,1\n", "3 cells in row 2, expected 2"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, why):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=why):
        read_predictions(tmp_path / "t.csv")


def test_folds_that_share_a_case_or_differ_are_refused(tmp_path):
    for name, cases, column in (("0.csv", ["a", "b"], "x"), ("1.csv", ["c", "b"], "x"), ("2.csv", ["d"], "z")):
        write_predictions(tmp_path / name, table(cases, **{column: np.zeros(len(cases))}))
    with pytest.raises(InputError, match=r"case b is in .*0\.csv and .*1\.csv"):
        read_predictions(tmp_path / "0.csv", tmp_path / "1.csv")
    with pytest.raises(InputError, match=r"differ in their columns .x, z"):
        read_predictions(tmp_path / "0.csv", tmp_path / "2.csv")


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        read_predictions(Path("nowhere.csv"))
