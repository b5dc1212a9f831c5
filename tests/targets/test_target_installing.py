"""Tables that people wrote: what is read, and the sentence for what cannot be."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import TARGETS_TABLE, TargetType
from bdfm_nnunet.targets.cell_values import plain_class
from bdfm_nnunet.targets.column_requests import class_spellings, column_request, group_request
from tests.targets.conftest import Install

CASES = {f"case_{number:03d}": f"P{number:02d}" for number in range(1, 9)}


def table(*cells: str, header: str = "case,x") -> str:
    return "\n".join([header, *(f"{case},{cell}" for case, cell in zip(CASES, cells))]) + "\n"


def asked(*columns: str) -> dict[str, Any]:
    return {"columns": tuple(map(column_request, columns))}


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("x:continuous", ["1.5", "2021-03-05", "2"], r"x '2021-03-05' in row 3 is a date, expected a number"),
        ("x:continuous", ["1.5", "three", "2"], r"x 'three' in row 3 is no number"),
        ("x:continuous", ["1.5", "TRUE", "2"], r"x 'TRUE' in row 3 is no number"),
        ("x:continuous", ["1.5", "-1e400", "2"], r"x '-1e400' in row 3 is beyond all numbers"),
        ("x:continuous", ["1.5", "#VALUE!", "2"], r"x '#VALUE!' in row 3 is an error of a spreadsheet"),
        ("x:continuous", ["1.5", ">89", "2"], r"x '>89' in row 3 is a bound, expected a number"),
        ("x:continuous", ["55 y", "1.75 m", "2 y"], r"x '1.75 m' in row 3 has the unit 'm', row 2 has 'years'"),
        ("x:continuous", ["55 y", "61", "2 y"], r"x '61' in row 3 has the unit 'none', row 2 has 'years'"),
        ("x:continuous", ['"1,234"', "7", "2"], r"x '1,234' in row 2 may be a number with a decimal comma or one with"),
        ("x:continuous", ["7", "7", "7.0"], r"x has the one value 7 in 3 cases: a target needs different ones"),
        ("x:continuous", ["n/a", "", "#N/A"], r"x has no value for any case"),
        ("x:binary", ["yes", "Yes", "YES"], r"x has one class only, yes"),
        ("x:binary", ["a", "b", "c"], r"x 'c' in row 4 is a class beyond the 2 of a binary target \(a 1, b 1, c 1\)"),
        ("x:binary", ["a", "01-Feb", "b"], r"x '01-Feb' in row 3 is a date, or a class such as 1-2"),
        ("x:binary", ["a", "#REF!", "b"], r"x '#REF!' in row 3 is an error of a spreadsheet, expected a class"),
        ("x:ordinal", ["low", "high", "mid"], r"x has classes of unknown order \(high, low, mid\): .* --classes x=LOW"),
        ("y:binary", ["a", "b"], r"has no column 'y': it has the columns case, x"),
        ("x", ["ab", "cd", "ef"], r"x is of no clear type \(ab 1, cd 1, ef 1\): write the type, as in --column x:cont"),
    ],
)
def test_what_cannot_be_a_target_is_one_sentence(
    column: str, cells: list[str], message: str, install: Install, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        install(table(*cells), CASES, **asked(column))
    assert "table.csv" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "Dataset501_Demo" / TARGETS_TABLE).exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("case_001,a\ncase_001,b", r"x of case_001 is 'a' in row 2 and 'b' in row 3: remove one of the rows"),
        ("P01,a\np1,b", r"x of case_001 is 'a' in row 2 and 'b' in row 3"),
        (
            "who,a\n,b",
            r"names no case or patient of the data set \(case in row 2 is 'who', a case is called 'case_001'",
        ),
        ("2005-01-05 00:00:00,a", r"case '2005-01-05 00:00:00' in row 2 is a date that a spreadsheet made of an id"),
        ("case_001,a,b", r"row 2 has 3 cells and the header 2"),
        ("", r"has no row below a header"),
    ],
)
def test_rows_that_cannot_be_matched_are_one_sentence(rows: str, message: str, install: Install) -> None:
    with pytest.raises(InputError, match=message):
        install(f"case,x\n{rows}\n", CASES, **asked("x:binary"))


def test_a_unit_of_classes_is_refused(install: Install) -> None:
    with pytest.raises(InputError, match=r"--unit names x, which has classes and no unit \(binary\): leave it out"):
        install(table("a", "b"), CASES, units={"x": "years"}, **asked("x:binary"))


def test_no_target_is_called_like_the_spread_of_another(install: Install) -> None:
    with pytest.raises(InputError, match="its end is that of the spread"):
        column_request("age spread:continuous")
    report = install(table("1.5", "2", "3.5", header="case,age spread"), CASES)
    assert set(report.targets.columns) == {"age spread_value"}


def test_empty_rows_count_in_the_number_of_a_row(install: Install) -> None:
    with pytest.raises(InputError, match=r"x 'three' in row 5 is no number"):
        install("case,x\n\ncase_001,1\n,\ncase_002,three\n", CASES, **asked("x:continuous"))


def test_unknown_and_missing_ids_are_told_or_refused(install: Install) -> None:
    text = table("a", "b", "a") + "case_099,b\nwho,a\n"
    report = install(text, CASES, **asked("x:binary"))
    assert any("2 of 5 rows name no case or patient of the data set (row 5 'case_099', row 6 'who')" in n
               for n in report.notes)  # fmt: skip
    assert any(note.startswith("5 of 8 cases have no row in") for note in report.notes)
    assert np.isnan(report.targets.values("x", ["case_008"])).all()
    with pytest.raises(InputError, match=r"2 of 5 rows name no case .*: correct the ids, or leave out --strict"):
        install(text, CASES, strict=True, **asked("x:binary"))


def test_two_values_of_a_patient(install: Install) -> None:
    cases = {"a_1": "A", "a_2": "A", "b_1": "B"}
    text = "case,sex,age\na_1,F,30\na_2,M,31\nb_1,M,40\n"
    with pytest.raises(
        InputError, match=r"sex of patient \S*A is 'F' in row 2 \(a_1\) and 'M' in row 3 \(a_2\): .*--per-"
    ):
        install(text, cases, **asked("sex:binary"))
    report = install(text, cases, per_scan=("sex",), **asked("sex:binary", "age:continuous"))
    np.testing.assert_array_equal(report.targets.numbers["sex"].ravel(), [0, 1, 1])
    np.testing.assert_array_equal(report.targets.numbers["age"].ravel(), [30, 31, 40])


def test_a_row_of_a_patient_tells_of_all_cases_and_one_of_a_case_goes_first(install: Install) -> None:
    cases = {"a_1": "A", "a_2": "A", "b_1": "B"}
    report = install("patient,age\nA,30\na_2,31\nb,40\n", cases, **asked("age:continuous"))
    np.testing.assert_array_equal(report.targets.numbers["age"].ravel(), [30, 31, 40])


@pytest.mark.parametrize(
    "name", ["case_001.nii.gz", "case_001_0000.nii.gz", "case_1", "CASE_001", "P01", "sub-P01", "p1"]
)
def test_ids_are_found_as_people_write_them(name: str, install: Install) -> None:
    text = f"id,x\n{name},1.5\ncase_002,2.5\n"
    assert install(text, CASES, **asked("x:continuous")).targets.values("x", ["case_001"]) == 1.5


def test_numbers_as_ids_that_a_spreadsheet_made_decimal(install: Install) -> None:
    cases = {"007": "007", "012": "012", "101": "101"}
    report = install("id,x\n7.0,1\n12.0,2\n101.0,4\n", cases, **asked("x:continuous"))
    np.testing.assert_array_equal(report.targets.numbers["x"].ravel(), [1, 2, 4])


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_any_mark_and_encoding(mark: str, encoding: str, install: Install) -> None:
    text = mark.join(["Fall", '"Größe"', '"Händig"', "", ""]) + "\r\n"
    for case, size, hand in zip(CASES, ["1.5", "2.5", "3.5"], ["links", "rechts", "links"]):
        text += mark.join([case, size, f'"{hand}{mark}x"', "", ""]) + "\r\n"
    report = install(text.encode(encoding), CASES, **asked("size:continuous=Größe", "hand:binary=händig"))
    np.testing.assert_array_equal(report.targets.numbers["size"].ravel()[:4], [1.5, 2.5, 3.5, np.nan])
    assert report.targets.columns["hand"].classes == (plain_class(f"links{mark}x"), plain_class(f"rechts{mark}x"))


def test_what_excel_writes_above_the_header(install: Install) -> None:
    text = 'sep=;\r\nid;x;y\r\ncase_001;1,5;WAHR\r\ncase_002;"2,25";FALSCH\r\ncase_003;;WAHR\r\n'
    report = install(text, CASES, **asked("x:continuous", "y:binary"))
    np.testing.assert_array_equal(report.targets.numbers["x"].ravel()[:3], [1.5, 2.25, np.nan])
    assert report.targets.columns["y"].classes == ("FALSCH", "WAHR")
    with pytest.raises(InputError, match="row 3"):
        install(text.replace("1,5", "eins"), CASES, **asked("x:continuous"))


def test_a_workbook_of_excel(install: Install, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    rows = [["Subject", "Age", "Case-control", "Grade"], ["case_001", 55, True, "II"], [2, 60.5, False, "IV"],
            ["case_003", "n/a", True, "III"], ["case_004", None, None, datetime(2024, 3, 2)]]  # fmt: skip
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "table.xlsx")
    cases = CASES | {"2": "2"}
    with pytest.raises(InputError, match=r"Grade '2024-03-02 00:00:00' in row 5 is a date, or a class such as 1-2"):
        install(tmp_path / "table.xlsx", cases, **asked("grade:ordinal"))
    rows[4][3] = "IV"
    book.active.cell(5, 4).value = "IV"
    book.save(tmp_path / "table.xlsx")
    options = asked("age:continuous", "grade:ordinal", "c:binary=case_control")
    targets = install(tmp_path / "table.xlsx", cases, **options).targets
    assert targets.columns["grade"].classes == ("II", "III", "IV")
    assert targets.values("age", ["2", "case_001"]).ravel().tolist() == [60.5, 55]
    assert targets.columns["c"].classes == ("False", "True")


def test_classes_with_spellings_missing_words_units_and_positive(install: Install) -> None:
    text = table("IDH1 p.R132H,yes,9", "Wildtype,no,12.5", "mutated (NOS),no,-9", "?,NOS,8", header="case,idh,dead,w")
    report = install(
        text, CASES, missing=("-9", "NOS"), positive={"dead": "no"}, units={"w": "kg"},
        classes=dict([class_spellings("idh=wildtype,mutant=IDH*|mut*")]),
        **asked("idh:binary", "dead:binary", "w:continuous"),
    )  # fmt: skip
    targets = report.targets
    np.testing.assert_array_equal(targets.numbers["idh"].ravel()[:4], [1, 0, 1, np.nan])
    assert targets.columns["dead"].classes == ("yes", "no")
    np.testing.assert_array_equal(targets.numbers["w"].ravel()[:4], [9, 12.5, np.nan, 8])
    assert targets.columns["w"].unit == "kg"
    with pytest.raises(
        InputError, match=r"idh 'mutated \(NOS\)' in row 4 is none of wildtype, mutant: correct it, add"
    ):
        install(text, CASES, classes=dict([class_spellings("idh=wildtype,mutant=IDH*")]), **asked("idh:binary"))


def test_survival_of_two_columns_whose_names_hold_slashes(install: Install) -> None:
    text = table("300 d,dead", "250 d,alive", "n/a,dead", "7 d,", header="case,time/OS,dead/alive")
    report = install(text, CASES, **asked("os:survival=time/OS/dead/alive"))
    np.testing.assert_array_equal(report.targets.numbers["os"][:4], [[300, 1], [250, 0], [np.nan] * 2, [np.nan] * 2])
    assert report.targets.columns["os"].unit == "days"
    assert any("1 rows say whether there was an event and no time (row 4 ...)" in note for note in report.notes)


@pytest.mark.parametrize(
    ("cells", "header", "message"),
    [
        (["5,0", "7,0"], "case,t,e", "t has no event, all cases are censored"),
        (["5,1", "-7,0"], "case,t,e", r"t '-7' in row 3 is negative"),
        (["5,1", "7,perhaps"], "case,t,e", r"e 'perhaps' in row 3 is neither an event nor none"),
        (["5,1", "7,0"], "case,t,censored", "censored does not tell whether 1 means censored or the event"),
    ],
)
def test_survival_that_cannot_be_read(cells: list[str], header: str, message: str, install: Install) -> None:
    with pytest.raises(InputError, match=message):
        install(table(*cells, header=header), CASES, **asked(f"os:survival=t/{header.split(',')[-1]}"))


def test_a_column_of_censoring_is_read_once_it_is_said_how(install: Install) -> None:
    text = table("5,1", "7,0", header="case,t,censored")
    report = install(text, CASES, classes=dict([class_spellings("os=1,0")]), **asked("os:survival=t/censored"))
    np.testing.assert_array_equal(report.targets.numbers["os"][:2], [[5, 0], [7, 1]])


def test_types_are_taken_from_the_cells(install: Install) -> None:
    rows = [f"{n % 2},{20.5 + n},{n % 3 + 1},{'abc'[n % 3]},2020-01-{n + 1:02d},text {n},same" for n in range(12)]
    cases = {f"c{n}": f"c{n}" for n in range(12)}
    text = "\n".join(["id,b,n,o,m,date,note,one", *(f"c{n},{row}" for n, row in enumerate(rows))])
    columns = install(text, cases).targets.columns
    assert {name: column.type for name, column in columns.items()} == {
        "b": TargetType.BINARY, "n": TargetType.CONTINUOUS, "o": TargetType.ORDINAL, "m": TargetType.MULTICLASS,
    }  # fmt: skip


def test_groups_and_bands(install: Install) -> None:
    text = table(*(f"{20 + 10 * n},{'MF'[n % 2]},{n}" for n in range(8)), header="case,age,Sex,x")
    groups = (group_request("sex"), group_request("age band=age"))
    report = install(text, CASES, groups=groups, **asked("x:continuous"))
    assert report.targets.groups["sex"]["case_001"] == "M"
    assert set(report.targets.groups["age band"].values()) == {"20", "30", "40", "50", "60", "70", "80", "90"}
    with pytest.raises(InputError, match=r"has no column 'sexe': did you mean Sex\? It has the columns case, age, Sex"):
        install(text, CASES, groups=(group_request("sexe"),), **asked("x:continuous"))


def test_a_grouping_by_many_numbers_is_cut_into_bands(install: Install) -> None:
    cases = {f"c{n}": f"c{n}" for n in range(30)}
    text = "id,age,x\n" + "".join(f"c{n},{20 + 2 * n},{n * n % 7}\n" for n in range(30))
    report = install(text, cases, groups=(group_request("age"),), **asked("x:continuous"))
    assert len(set(report.targets.groups["age"].values())) == 3
    assert any(note.startswith("age: cut at") for note in report.notes)
    report = install(text.replace("age", "site"), cases, groups=(group_request("site"),), **asked("x:continuous"))
    assert report.targets.groups["site"]["c0"] == "20" and len(set(report.targets.groups["site"].values())) == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:bin", "--column x:bin has the type 'bin', expected binary, multi-class, ordinal, continuous, survival"),
        ("x:survival=t", "names no columns of time and event"),
        ("case:binary", "which cannot be used"),
        ("../x:binary", "which cannot be used"),
    ],
)
def test_options_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        column_request(text)


@pytest.mark.parametrize("text", ["x", "x=", "x=a", "x=a,,b", "x=a,a"])
def test_classes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match="does not list two or more classes"):
        class_spellings(text)
