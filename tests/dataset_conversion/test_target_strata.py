"""Splits by a target: classes, quarters and events in every fold, fractions with each class, and sites kept out."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.split_checks import check_splits
from bdfm_nnunet.dataset_conversion.splits import make_splits
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.split_files import read_kept_out, read_splits
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, write_targets
from tests.dataset_conversion.converted import dataset, row

CASES = [f"c{number:03d}{scan}" for number in range(60) for scan in "ab"[: 1 + (number % 5 == 0)]]
PATIENT = {case: f"Cohort-{case[:4]}" for case in CASES}


def value(case: str) -> float:
    """One patient in ten is positive; patients of 50 and above have no value."""
    number = int(case[1:4])
    return float(number % 10 == 3) if number < 50 else np.nan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = dataset(tmp_path / "Dataset007_Seven", [row(case, PATIENT[case]) for case in CASES])
    draw = random.Random(0)
    times = {patient: (draw.uniform(1, 100), float(draw.random() < 0.3)) for patient in PATIENT.values()}
    ages = {patient: draw.gauss(60, 10) for patient in PATIENT.values()}
    columns = [
        TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")),
        TargetColumn("age", TargetType.CONTINUOUS),
        TargetColumn("os", TargetType.SURVIVAL),
    ]
    numbers = {
        "idh": np.array([[value(case)] for case in CASES]),
        "age": np.array([[ages[PATIENT[case]]] for case in CASES]),
        "os": np.array([times[PATIENT[case]] for case in CASES]),
    }
    groups = {
        "site": {case: "ABC"[int(case[1:4]) % 3] for case in CASES},
        "scanner": {case: "B" if int(case[1:4]) < 20 else "Z" for case in CASES},
    }
    write_targets(path, Targets({c.name: c for c in columns}, tuple(CASES), PATIENT, groups, numbers))
    return path


def of_class(cases: list[str], wanted: float) -> int:
    return sum(value(case) == wanted for case in cases)


@pytest.mark.parametrize("seed", range(4))
def test_every_fold_has_its_share_of_a_rare_class(folder: Path, seed: int) -> None:
    report = make_splits(folder, targets=["idh"], seed=seed, fractions=(1.0, 0.1))
    folds = read_splits(folder / "splits_final.json")
    assert [of_class(fold["val"], 1) for fold in folds[:5]] == [1] * 5
    assert all(8 <= of_class(fold["val"], 0) <= 12 for fold in folds[:5])
    assert all(of_class(fold["train"], 1) and of_class(fold["train"], 0) for fold in folds[5:])
    sides = [{PATIENT[case] for case in fold[part]} for fold in folds for part in ("train", "val")]
    assert all(not train & val for train, val in zip(sides[::2], sides[1::2]))
    assert report.rows[0]["validation_targets"]["idh"]["mutant"] == 1 and not report.warnings
    assert check_splits(folder).faults == []


def test_cases_without_the_target_are_in_no_fold(folder: Path) -> None:
    report = make_splits(folder, targets=["idh"])
    assert "12 cases of which no target is known are in no fold: c050a, c050b" in report.note
    split = read_splits(folder / "splits_final.json")[0]
    assert {*split["train"], *split["val"]} == {case for case in CASES if case < "c050"}
    assert len(read_kept_out(folder).without_target) == 12
    make_splits(folder, targets=["idh", "age"], overwrite=True)
    assert not read_kept_out(folder).cases and check_splits(folder).faults == []


@pytest.mark.parametrize("name", ["age", "os"])
def test_numbers_and_times_are_alike_in_all_folds(folder: Path, name: str) -> None:
    rows = make_splits(folder, targets=[name]).rows
    for label, total in rows[0]["targets"][name].items():
        whole = total + rows[0]["validation_targets"][name][label]
        assert all(abs(each["validation_targets"][name][label] - whole / 5) <= 2 for each in rows), label


def test_a_class_that_a_fold_lacks_is_one_sentence(folder: Path) -> None:
    warnings = make_splits(folder, targets=["idh"], folds=7).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("idh: no validation case of fold ") and "has the class mutant" in warnings[0]


def test_splits_without_a_target_are_what_they_were(folder: Path, tmp_path: Path) -> None:
    bare = dataset(tmp_path / "bare" / "Dataset007_Seven", [row(case, PATIENT[case]) for case in CASES])
    assert make_splits(folder, fractions=(0.2, 1.0)).rows == make_splits(bare, fractions=(0.2, 1.0)).rows
    assert read_splits(folder / "splits_final.json") == read_splits(bare / "splits_final.json")
    assert (folder / "splits_table.json").read_text() == (bare / "splits_table.json").read_text()


def test_a_site_is_kept_out_with_all_scans_of_its_patients(folder: Path) -> None:
    report = make_splits(folder, targets=["idh"], external=["c", "scanner=B"])
    out = {case for case in CASES if int(case[1:4]) % 3 == 2 or int(case[1:4]) < 20}
    assert read_kept_out(folder).external == out and set(report.external) == {"site=C", "scanner=B"}
    used = {case for fold in read_splits(folder / "splits_final.json") for case in (*fold["train"], *fold["val"])}
    assert not used & out and used == {case for case in CASES if case < "c050"} - out
    assert check_splits(folder).faults == [] and "kept out of all folds: site=C" in report.summary()
    splits = read_json(folder / "splits_final.json")
    splits[0]["val"].append("c002a")
    write_json(folder / "splits_final.json", splits)
    assert any("c002a is of a site that was kept out" in fault for fault in check_splits(folder).faults)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"external": ["Ulm"]}, r"--external Ulm is no value of a grouping of this data set \(site: A, B, C; scanner"),
        ({"external": ["B"]}, "--external B is a value of several groupings: write --external site=B or --external sc"),
        ({"external": ["A", "site=B", "C"]}, "leaves fewer than two patients to split"),
        ({"targets": ["grade"]}, "there is no target grade, only idh, age, os"),
    ],
)
def test_what_cannot_be_split_is_one_sentence(folder: Path, settings: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_splits(folder, **settings)
    assert not (folder / "splits_final.json").exists()


def test_without_targets_the_remedy_is_named(folder: Path) -> None:
    (folder / "targets.json").unlink()
    with pytest.raises(InputError, match="bdfm targets"):
        make_splits(folder, targets=["idh"])


def test_patients_of_targets_serve_where_there_is_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    description = json.loads((folder / "dataset.json").read_text())
    description["dataset"] = {case: {"images": [], "label": ""} for case in CASES}
    (folder / "dataset.json").write_text(json.dumps(description))
    make_splits(folder, targets=["idh"])
    folds = read_splits(folder / "splits_final.json")
    assert not any({PATIENT[c] for c in fold["train"]} & {PATIENT[c] for c in fold["val"]} for fold in folds)
    assert check_splits(folder).faults == []


def test_a_test_set_is_drawn_by_patients_and_strata(folder: Path) -> None:
    """Three lists that share no patient, in each of which the positive ones have their share."""
    report = make_splits(folder, targets=["idh"], external=["site=C"], test=0.25)
    out = read_kept_out(folder)
    drawn, splits = out.sites["test=drawn"], read_splits(folder / "splits_final.json")
    known = {PATIENT[case] for case in CASES if int(case[1:4]) < 50 and int(case[1:4]) % 3 != 2}
    people = {PATIENT[case] for case in drawn}
    assert len(people) == pytest.approx(len(known) / 4, abs=1) and people <= known
    assert {int(case[1:4]) % 10 == 3 for case in drawn} == {False, True}
    for split in splits:
        lists = [{PATIENT[case] for case in part} for part in (split["train"], split["val"], out.external)]
        assert not (lists[0] & lists[1] or lists[0] & lists[2] or lists[1] & lists[2])
        assert lists[0] | lists[1] == known - people
    assert set(report.external) == {"site=C", "test=drawn"} and not check_splits(folder).faults
    make_splits(folder, targets=["idh"], external=["site=C"], test=0.25, seed=4, overwrite=True)
    assert read_kept_out(folder).sites["test=drawn"] != drawn
    with pytest.raises(InputError, match="test is 1"):
        make_splits(folder, test=1.0)
