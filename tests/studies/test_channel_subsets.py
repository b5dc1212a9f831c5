"""`bdfm evaluate --channels all-subsets`: predictions with subsets of channels, and their table."""

import csv
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from bdfm_nnunet import cli
from bdfm_nnunet.results import read_result
from bdfm_nnunet.studies.channel_subsets import all_subsets
from tests.conftest import point_to
from tests.prediction.test_whole_command import CHECKPOINT, arguments, model
from tests.small_datasets import SmallDataset

DATA = SmallDataset(number=61, shape=(22, 20, 18), spacing=(1.0, 1.0, 1.0), channels=2)


def _model(folder: Path, *, dropout: float | None = None) -> Path:
    """A model of the data set with random weights of its own."""
    model(folder, axes=3, channels=2, ending=".nii.gz", reader=SimpleITKIO)
    plans = json.loads((folder / "plans.json").read_text()) | {"dataset_name": DATA.name}
    (folder / "plans.json").write_text(json.dumps(plans))
    path = folder / "fold_0" / CHECKPOINT
    content = torch.load(path, weights_only=True)
    if dropout is not None:
        content["bdfm_channel_dropout"] = dropout
        noise = torch.Generator().manual_seed(5)
        content["network_weights"] = {
            name: value + 0.2 * torch.randn(value.shape, generator=noise)
            for name, value in content["network_weights"].items()
        }
    torch.save(content, path)
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two models of a data set whose last case is held out; the second has learnt to do without channels."""
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    point_to(tmp_path, monkeypatch)
    raw = DATA.write(tmp_path / "nnUNet_raw")
    preprocessed = tmp_path / "nnUNet_preprocessed" / DATA.name
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    shutil.copy(raw / "splits_final.json", preprocessed)
    results = tmp_path / "nnUNet_results" / DATA.name
    return [_model(results / "T__P__whole"), _model(results / "T__P__dropout", dropout=0.5)]


def _run(models: list[Path], out: Path, *more: str) -> int:
    named = [word for folder in models for word in ("--model", str(folder))]
    return cli.main(["evaluate", "--channels", "all-subsets", *named, "-o", str(out), "--workers", "1", *more])


def _dice_by_hand(folder: Path, images: Path, out: Path) -> dict[str, float]:
    assert cli.main(arguments(folder, images, out)) == 0
    found, truth = (
        np.asanyarray(nibabel.load(path / "case_2.nii.gz").dataobj)  # type: ignore[attr-defined]
        for path in (out, images.parent / "nnUNet_raw" / DATA.name / "labelsTr")
    )
    return {
        name: float(2 * ((found == value) & (truth == value)).sum() / ((found == value).sum() + (truth == value).sum()))
        for name, value in (("a", 1), ("b", 2))
    }


def test_a_table_of_all_subsets_beside_a_model_without(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "subsets.json"
    with caplog.at_level(logging.WARNING):
        assert _run(models, out, "--disable_tta") == 0
    told = [record.getMessage() for record in caplog.records if "without channel dropout" in record.getMessage()]
    assert len(told) == 1 and "T__P__whole" in told[0]
    rows = read_result(out, kind="channel_subsets").extra["subsets"]
    asked = [(row["model"], row["channels"]) for row in rows]
    assert asked == [(name, channels) for name in ("whole", "dropout") for channels in (["c0", "c1"], ["c0"], ["c1"])]
    assert [row["channel_dropout"] for row in rows] == [False] * 3 + [True] * 3
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(tmp_path / "nnUNet_raw" / DATA.name / "imagesTr" / "case_2_0001.nii.gz", images)
    expected = _dice_by_hand(models[1], images, tmp_path / "by_hand")
    last = rows[-1]
    assert last["cases"].keys() == {"case_2"}
    assert {name: last["cases"]["case_2"][name] for name in "ab"} == pytest.approx(expected, abs=1e-6)
    assert last["scores"]["mean"]["mean"] == pytest.approx(np.mean([*expected.values()]), abs=1e-6)
    change = last["difference"]["mean"]["mean"]
    assert change == pytest.approx(last["scores"]["mean"]["mean"] - rows[2]["scores"]["mean"]["mean"]) and change != 0
    assert len({row["scores"]["mean"]["mean"] for row in rows}) == 6
    shown = capsys.readouterr().out
    assert "| channels | dice, whole | dice, dropout | dropout - whole |" in shown and "| c0 c1 | " in shown
    with open(out.with_suffix(".csv"), newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6 * 3 and {row["region"] for row in table} == {"a", "b", "mean"}
    assert not list(tmp_path.glob("bdfm_subsets_*"))


def test_every_subset_but_the_empty_one_the_largest_first() -> None:
    found = all_subsets(4)
    assert len(set(found)) == 15 and all(found) and [len(each) for each in found] == [4] + [3] * 4 + [2] * 6 + [1] * 4


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (None, ["-f", "all"], "fold `all` has no validation cases"),
        (None, ["-f", "3"], "has no checkpoint_final.pth of fold 3"),
        (None, ["--only-predicted"], "--only-predicted is for folders of predictions"),
        ("twice", [], "is named twice: name each with --model once"),
        ("labels", [], "has other labels than"),
        ("splits", [], "has no fold"),
        ("image", [], "case_2_0001.nii.gz of case case_2 does not exist"),
    ],
)
def test_what_cannot_be_compared(
    change: str | None, options: list[str], sentence: str, models: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    raw = tmp_path / "nnUNet_raw" / DATA.name
    if change == "twice":
        models = [models[0], models[0]]
    elif change == "labels":
        path = models[1] / "dataset.json"
        path.write_text(path.read_text().replace('"a": 1, "b": 2', '"b": 1, "a": 2'))
    elif change == "splits":
        (tmp_path / "nnUNet_preprocessed" / DATA.name / "splits_final.json").write_text("[]")
    elif change == "image":
        (raw / "imagesTr" / "case_2_0001.nii.gz").unlink()
    assert _run(models, tmp_path / "subsets.json", "--disable_tta", *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "subsets.json").exists()


def test_options_of_the_other_way_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given, sentence in (
        (["labels", "predictions", "--model", "m"], "--model is for --channels all-subsets"),
        (["labels"], "the folders are missing"),
        (["labels", "--channels", "all-subsets", "--model", "m"], "predicts what it scores: leave out labels"),
        (["--channels", "all-subsets"], "needs a model: name its folder with --model"),
    ):
        kept: Any = cli.main(["evaluate", *given, "-o", "scores.json"])
        assert kept == 2 and sentence in capsys.readouterr().err
