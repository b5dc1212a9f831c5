"""`bdfm evaluate`, `postprocess tune` and their kin score any data set by its own dataset.json."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.scored_regions import Target, target_of_dataset

LABELS = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS = {"background": 0, "all": [1, 2], "core": [2], "ignore": 3}


def _dataset(labels: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz", **more}


def _target(labels: dict[str, Any], **more: Any) -> Target:
    return target_of_dataset(_dataset(labels, **more), name="Ours", path="dataset.json")


def test_labels_regions_and_the_label_to_ignore() -> None:
    assert _target(LABELS) == Target("Ours", {"anterior": (1,), "posterior": (2,)})
    assert _target(REGIONS, regions_class_order=[1, 2]) == Target("Ours", {"all": (1, 2), "core": (2,)}, 3)
    target = Target("Ours", {"all": (1, 2)}, 3, {1: 10, 3: 99})
    assert target.in_source_values() == Target("Ours", {"all": (10, 2)}, 99)


@pytest.mark.parametrize(
    ("labels", "order", "fault"),
    [
        ({"background": 0}, None, "no label beside the background"),
        ({"background": 0, "ignore": 1}, None, "no label beside the background"),
        ({"background": 0, "all": []}, None, "a region without labels"),
        ({"background": 0, "all": -1}, None, "a label that is not between 0 and 65535"),
        ({"background": 0, "all": 10**9}, None, "a label that is not between 0 and 65535"),
        ({"background": 0, "all": 1, "ignore": [2, 3]}, None, "more than one label to ignore"),
        ({"background": 0, "all": [1, 2], "core": 2}, [1], "2 regions but 1 values in regions_class_order"),
    ],
)
def test_labels_that_cannot_be_scored(labels: dict[str, Any], order: Any, fault: str) -> None:
    with pytest.raises(InputError, match=f"dataset.json has {fault}: correct it"):
        _target(labels, regions_class_order=order)


# ------------------------------------------------------------------------------------------------- at the command line


def _write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), np.diag([-1.0, -1, 2, 1])), path)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of one's own, two cases of which the second has a part that nobody has drawn."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw/Dataset061_Ours"
    for case in "ab":
        labels = np.zeros((12, 12, 12), np.uint8)
        labels[2:8, 2:8, 2:8] = 1
        labels[4:6, 4:6, 4:6] = 2
        _write(tmp_path / f"prediction/{case}.nii.gz", labels)
        labels[2:4, 2:8, 2:8] = 0  # two slices too many
        if case == "b":
            labels[:4] = 3
        _write(folder / f"labelsTr/{case}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps(_dataset(REGIONS, regions_class_order=[1, 2])))
    return folder


def _evaluate(raw: Path, *options: str) -> tuple[int, dict[str, Any]]:
    out = raw.parents[1] / "scores.json"
    code = main(["evaluate", str(raw / "labelsTr"), str(raw.parents[1] / "prediction"), "-o", str(out), "--workers",
                 "1", *options])  # fmt: skip
    return code, json.loads(out.read_text()) if out.exists() else {}


@pytest.mark.parametrize("by", ["number", "file"])
def test_a_data_set_of_ones_own_is_scored_and_ignored_voxels_count_for_nothing(by: str, raw: Path) -> None:
    options = ("-d", "61") if by == "number" else ("--dataset-json", str(raw / "dataset.json"))
    code, result = _evaluate(raw, *options)
    assert (code, result["release"]) == (0, "Dataset061_Ours")
    assert result["regions"] == {"all": [1, 2], "core": [2]}
    first, second = (row["regions"] for row in result["cases"])
    assert first["all"]["dice"] == pytest.approx(2 * 144 / (144 + 216))
    assert (second["all"]["dice"], second["core"]["dice"]) == (1, 1)
    assert second["all"]["prediction_mm3"] == 144 * 2


def test_versions_with_rules_of_tasks_ask_for_one(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _evaluate(raw, "-d", "61", "--metrics", "lesionwise-2023")[0] == 2
    assert "Ours' has no rules in lesionwise-2023: name a task whose rules to use (GLI, " in capsys.readouterr().err
    code, result = _evaluate(raw, "-d", "61", "--metrics", "lesionwise-2023", "--task", "MET")
    assert code == 0 and result["parameters"]["task"] == "MET"
    assert _evaluate(raw, "-d", "61", "--metrics", "panoptic-2026")[0] == 0


def test_a_converted_release_keeps_its_rules(raw: Path) -> None:
    content = _dataset(REGIONS, regions_class_order=[1, 2], release="brats2023-met", name="BraTS2023MET")
    (raw / "dataset.json").write_text(json.dumps(content))
    assert _evaluate(raw, "-d", "61", "--metrics", "lesionwise-2023")[1]["parameters"]["task"] == "MET"
    content["release"] = "folder"
    (raw / "dataset.json").write_text(json.dumps(content))
    assert _evaluate(raw, "-d", "61")[1]["release"] == "BraTS2023MET"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "is said once: with --release NAME, with -d ID"),
        (("-d", "61", "--release", "brats2021"), "is said once"),
        (("--release", "folder"), "folder stands for data sets with labels of their own"),
        (("-d", "62"), "no data set Dataset062_"),
        (("--dataset-json", "nowhere.json"), "nowhere.json does not exist"),
    ],
)
def test_what_is_scored_is_said_in_one_way(
    options: tuple[str, ...], sentence: str, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(raw, *options) == (2, {})
    assert sentence in capsys.readouterr().err


def test_the_cases_that_are_there(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction = raw.parents[1] / "prediction"
    (prediction / "a.nii.gz").rename(prediction / "c.nii.gz")
    assert _evaluate(raw, "-d", "61") == (2, {})
    assert "c.nii.gz has no reference" in capsys.readouterr().err
    code, result = _evaluate(raw, "-d", "61", "--only-predicted")
    assert (code, [row["case"] for row in result["cases"]]) == (0, ["b"])
    assert result["not_scored"] == {"without_prediction": ["a"], "without_reference": ["c"]}
    assert "1 cases scored; 1 have no prediction and 1 no reference" in capsys.readouterr().out
    (prediction / "b.nii.gz").unlink()
    assert _evaluate(raw, "-d", "61", "--only-predicted")[0] == 2
    assert "have no case in common" in capsys.readouterr().err
    assert _evaluate(raw, "-d", "61", "--only-predicted", "--allow-missing")[0] == 2
    assert "take --allow-missing or --only-predicted" in capsys.readouterr().err


def test_source_labels_are_those_of_the_manifest(raw: Path) -> None:
    (raw / "manifest.json").write_text(json.dumps({"inverse_labels": {"1": 10, "2": 20}, "cases": []}))
    for path in (*raw.glob("labelsTr/*"), *(raw.parents[1] / "prediction").iterdir()):
        labels = np.asarray(nibabel.load(path).dataobj)
        _write(path, np.array([0, 10, 20, 3])[labels])
    code, result = _evaluate(raw, "-d", "61", "--source-labels")
    assert (code, result["regions"]) == (0, {"all": [10, 20], "core": [20]})
    assert result["cases"][1]["regions"]["all"]["dice"] == 1
    assert _evaluate(raw, "-d", "61")[0] == 2


def test_rules_are_tuned_for_a_data_set_of_ones_own_by_its_patients(raw: Path) -> None:
    """Patients come from the manifest; specks beyond what was drawn do not count against a prediction."""
    root = raw.parents[1]
    rows = []
    for number in range(8):
        labels = np.zeros((16, 16, 16), np.uint8)
        labels[4:10, 4:10, 4:10] = 1
        labels[5:8, 5:8, 5:8] = 2
        _write(raw / f"labelsTr/c{number}.nii.gz", labels)
        labels[14:15, 14:15, 1:2] = 1
        _write(root / f"prediction/c{number}.nii.gz", labels)
        rows.append({"case": f"c{number}", "patient": f"ours-p{number // 4}", "status": "ok"})
    for case in "ab":
        (raw / f"labelsTr/{case}.nii.gz").unlink()
        (root / f"prediction/{case}.nii.gz").unlink()
    (raw / "manifest.json").write_text(json.dumps({"release": "folder", "cases": rows}))
    command = ["postprocess", "tune", str(raw / "labelsTr"), str(root / "prediction"), "-d", "61", "--metrics", "whole",
               "-o", str(root / "rules.json"), "--workers", "1"]  # fmt: skip
    assert main(command) == 0
    rules = json.loads((root / "rules.json").read_text())
    assert rules["release"] == "Dataset061_Ours" and rules["evidence"]["held_out_folds"] == 2
    assert rules["evidence"]["after_in_sample"] == 1 and rules["labels"] == [0, 1, 2]
    assert main(["postprocess", "apply", str(root / "prediction"), str(root / "rules.json"), "-o", str(root / "after"),
                 "--workers", "1"]) == 0  # fmt: skip
    for path in raw.glob("labelsTr/*"):
        images = [np.asarray(nibabel.load(file).dataobj) for file in (path, root / "after" / path.name)]
        np.testing.assert_array_equal(*images)
