"""`bdfm ensemble`: what parts bring, temperature and intervals, on held-out cases."""

import json
import multiprocessing
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.evaluation.ensemble_calibration import read_calibration
from bdfm_nnunet.evaluation.voxelwise import dice
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.prediction import ensemble_parts
from bdfm_nnunet.table_files import read_table
from tests.conftest import point_to, threads_for_spawn
from tests.prediction.ensemble_models import AFFINE, SIZE, model_of_folds, write_images
from tests.prediction.test_whole_command import CHECKPOINT

FAST = ["-device", "cpu", "-npp", "1", "-nps", "1", "--precision", "fp32"]
NAME, RUN = "Dataset077_Small", "nnUNetTrainer__Plans__3d_fullres"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    return point_to(tmp_path, monkeypatch)


def dataset(root: Path, cases: int = 4) -> Path:
    """A data set of two folds with a model of two folds, whose references are nearly what fold 0 says."""
    model = model_of_folds(root / "nnUNet_results" / NAME / RUN, seed=0)
    raw = root / "nnUNet_raw" / NAME
    raw.mkdir()
    write_images(raw / "imagesTr", cases)
    shutil.copy(model / "dataset.json", raw)
    words = ["-m", model, "-f", 0, "-i", raw / "imagesTr", "-o", raw / "labelsTr", "--disable_tta"]
    assert cli.main(["predict", *map(str, words), *FAST]) == 0
    for path in (raw / "labelsTr").iterdir():
        if not path.name.endswith(".nii.gz"):
            path.unlink()
            continue
        values = np.asarray(nib.load(path).dataobj).copy()
        values[:3] = 0
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    names = [f"case{number}" for number in range(cases)]
    splits = [{"train": names[cases // 2 :], "val": names[: cases // 2]},
              {"train": names[: cases // 2], "val": names[cases // 2 :]}]  # fmt: skip
    (root / "nnUNet_preprocessed" / NAME).mkdir()
    (root / "nnUNet_preprocessed" / NAME / "splits_final.json").write_text(json.dumps(splits))
    return model


def run(*words: Any) -> int:
    return cli.main(["ensemble", *map(str, words), *FAST])


def labels_in(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)


def mean_dice(reference: Path, prediction: Path) -> float:
    first, second = labels_in(reference), labels_in(prediction)
    return float(np.mean([dice(first == label, second == label) for label in (1, 2)]))


def table(out: Path) -> dict[str, dict[str, str]]:
    header, *rows = read_table(out / "parts.csv")
    return {row[0]: dict(zip(header, row)) for row in rows}


def test_parts_are_scored_as_their_predictions(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = dataset(folders, cases=2), folders / "out"
    other = model_of_folds(folders / "other", seed=5)
    raw = folders / "nnUNet_raw" / NAME
    where = ["--model", model, "--model", other, "-f", 0, 1, "-i", raw / "imagesTr", "--references", raw / "labelsTr"]
    assert run(*where, "-o", out) == 0
    rows = table(out)
    assert "all, not mirrored" in capsys.readouterr().out
    predictions = {
        "all": ["--model", model, "--model", other, "-f", 0, 1, "--average", "probabilities"],
        "all, not mirrored": ["--model", model, "--model", other, "-f", 0, 1, "--average", "probabilities",
                              "--disable_tta"],
        "other alone": ["--model", other, "-f", 0, 1, "--average", "probabilities"],
        "without other": ["--model", model, "-f", 0, 1, "--average", "probabilities"],
        "fold_1 alone": ["--model", model, "--model", other, "-f", 1],
        f"{RUN}/fold_0 alone": ["--model", model, "-f", 0],
    }  # fmt: skip
    assert len(rows) == 2 + 2 * (2 + 2 + 4)
    for number, (title, words) in enumerate(predictions.items()):
        there = folders / f"p{number}"
        assert cli.main(["predict", "-i", str(raw / "imagesTr"), "-o", str(there), *FAST, *map(str, words)]) == 0
        expected = [mean_dice(raw / "labelsTr" / f"case{n}.nii.gz", there / f"case{n}.nii.gz") for n in range(2)]
        assert float(rows[title]["score"]) == pytest.approx(np.mean(expected), abs=1e-6), title
    change = float(rows["all"]["score"]) - float(rows["without other"]["score"])
    assert float(rows["without other"]["all_less_this"]) == pytest.approx(change) and abs(change) > 1e-3


def test_training_cases_are_predicted_by_the_fold_that_has_not_seen_them(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset(folders)
    words = ["-d", 77, "-tr", "nnUNetTrainer", "-p", "Plans", "-f", 0, 1, "--disable_tta", "-o", folders / "out"]
    save, calls = ensemble_parts.save_probabilities, []

    def stopped(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return save(*args, **settings)

    monkeypatch.setattr(ensemble_parts, "save_probabilities", stopped)
    assert run(*words) == 130
    assert sorted(path.name for path in (folders / "out" / "cases").glob("*.json")) == ["case0.json", "case1.json"]
    assert run(*words) == 0 and len(calls) == 3 + 2
    rows = table(folders / "out")
    raw = folders / "nnUNet_raw" / NAME
    for fold in (0, 1):
        there = folders / f"fold{fold}"
        more = ["-d", "77", "-c", "3d_fullres", "-tr", "nnUNetTrainer", "-p", "Plans", "-f", str(fold), "--disable_tta"]
        assert cli.main(["predict", "-i", str(raw / "imagesTr"), "-o", str(there), *FAST, *more]) == 0
        cases = [f"case{number}.nii.gz" for number in (2 * fold, 2 * fold + 1)]
        expected = [mean_dice(raw / "labelsTr" / case, there / case) for case in cases]
        assert float(rows[f"cases of fold_{fold}"]["score"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert rows["all"]["cases"] == "4" and len(rows) == 3
    assert float(rows["cases of fold_0"]["score"]) > float(rows["cases of fold_1"]["score"]) + 0.1
    found = read_calibration(folders / "out" / "calibration.json")
    assert found.cases == 4 and found.volumes == {"a": None, "b": None} and found.temperature > 1
    before, after = found.error["doubtful"]
    assert before is not None and after is not None and after < before
    assert "calibration error (ECE), all voxels" in capsys.readouterr().out
    again = [*words[:-2], "-o", folders / "out", "--metrics", "lesionwise-2023"]
    assert run(*again) == 2 and "was made with other metrics" in capsys.readouterr().err


def test_a_calibration_changes_probabilities_and_intervals_but_no_label(folders: Path) -> None:
    model, raw = dataset(folders, cases=2), folders / "nnUNet_raw" / NAME
    path = folders / "calibration.json"
    content = {
        "format": 1,
        "temperature": 2.0,
        "error": {},
        "cases": 30,
        "volumes": {"all": 0.01, "b": None},
        "regions": {"all": [1, 2], "b": [2]},
    }
    path.write_text(json.dumps(content))
    words = ["predict", "--model", str(model), "-f", "0", "-i", str(raw / "imagesTr"), "--save_probabilities", *FAST]
    assert cli.main([*words, "-o", str(folders / "plain")]) == 0
    assert cli.main([*words, "-o", str(folders / "calibrated"), "--calibration", str(path), "--volumes"]) == 0
    plain, found = (np.load(folders / name / "case0.npz")["probabilities"] for name in ("plain", "calibrated"))
    expected = np.sqrt(plain.astype(np.float64))
    np.testing.assert_allclose(found, expected / expected.sum(axis=0), atol=1e-5)
    first, second = (labels_in(folders / name / "case0.nii.gz") for name in ("plain", "calibrated"))
    np.testing.assert_array_equal(first, second)
    header, *rows = read_table(folders / "calibrated" / "volumes.csv")
    row = dict(zip(header, rows[0]))
    assert row["region"] == "all" and "held-out cases" in row["interval"]
    volume, low, high = (float(row[name]) for name in ("volume_mm3", "low_mm3", "high_mm3"))
    assert high == pytest.approx((volume + 100) * np.exp(0.01) - 100, abs=0.1) and low < volume < high
    path.write_text(json.dumps(content | {"volumes": {"all": 20.0, "b": None}}))
    assert cli.main([*words, "-o", str(folders / "unsure"), "--calibration", str(path), "--volumes"]) == 0
    row = dict(zip(header, read_table(folders / "unsure" / "volumes.csv")[1]))
    assert (float(row["low_mm3"]), float(row["high_mm3"])) == (0, 3.0 * np.prod(SIZE))
    path.write_text(json.dumps(content | {"regions": {"tumour": [7]}}))
    assert cli.main([*words, "-o", str(folders / "other"), "--calibration", str(path)]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-d", 77, "-f", 0], "there is not one data set"),
        (["-f", 0], "no cases are named"),
        (["-d", 77, "-tr", "nnUNetTrainer", "-p", "Plans", "-f", "all"], "fold all"),
        (["-d", 77, "-tr", "nnUNetTrainer", "-p", "Plans", "-f", 0, "-i", "images"], "belong together"),
        (["-d", 77, "-tr", "nnUNetTrainer", "-p", "Other", "-f", 0], "does not exist: train that model first"),
    ],
)
def test_bad_input_is_a_sentence(
    words: list[Any], sentence: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "-d" and len(words) > 4:
        dataset(folders, cases=2)
    sentence = "no data set" if sentence.startswith("there is") else sentence
    assert run(*words, "-o", folders / "out") == 2
    assert sentence in capsys.readouterr().err


def test_a_reference_with_a_label_of_its_own(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, raw = dataset(folders, cases=2), folders / "nnUNet_raw" / NAME
    values = labels_in(raw / "labelsTr" / "case1.nii.gz").copy()
    values[4, 4, 4] = 7
    nib.save(nib.Nifti1Image(values, AFFINE), raw / "labelsTr" / "case1.nii.gz")
    where = ["--model", model, "-f", 0, "-i", raw / "imagesTr", "--references", raw / "labelsTr", "--disable_tta"]
    assert run(*where, "-o", folders / "out") == 2
    assert "case1.nii.gz holds the label 7" in capsys.readouterr().err
    (raw / "labelsTr" / "case1.nii.gz").unlink()
    assert run(*where, "-o", folders / "new") == 2
    assert "has no case1.nii.gz (1 of 2 images have none)" in capsys.readouterr().err


def test_cases_that_a_member_was_trained_on_are_named(
    folders: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, raw = dataset(folders, cases=2), folders / "nnUNet_raw" / NAME
    path = model / "fold_1" / CHECKPOINT
    cases = CaseList(NAME, "own", [{"case": "case1", "patient": "p", "part": "train"}])
    content = torch.load(path) | {EXPOSURE: Exposure((describe_run(cases, train=["case1"], val=[]),)).as_dict()}
    torch.save(content, path)
    where = ["--model", model, "-f", 0, 1, "-i", raw / "imagesTr", "--references", raw / "labelsTr", "--disable_tta"]
    assert run(*where, "-o", folders / "out") == 0
    assert f"1 of 2 cases are among the training cases of {path} (case1)" in caplog.text
    assert run("-d", 77, "--model", model, "-f", 0, 1, "--disable_tta", "-o", folders / "new") == 2
    assert f"case1 is held out in fold 1 of splits_final.json, and {path} was trained on it" in capsys.readouterr().err
