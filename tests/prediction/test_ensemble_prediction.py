"""Ensembles of several models and folds: streamed, equal to nnU-Net's own, whole or not at all."""

import gc
import multiprocessing
import sys
import weakref
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.ensembling.ensemble import ensemble_folders

from bdfm_nnunet import cli
from bdfm_nnunet.prediction import case_workers, ensemble_prediction, model_folder
from bdfm_nnunet.prediction.case_quality import QUALITY_TABLE
from bdfm_nnunet.table_files import read_table
from tests.conftest import threads_for_spawn
from tests.prediction.ensemble_models import CLASSES, REGIONS, model_of_folds, write_images
from tests.prediction.test_whole_command import CHECKPOINT, model

FAST = ["-device", "cpu", "-npp", "1", "-nps", "1", "--precision", "fp32"]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def predict(images: Path, out: Path, *words: str | Path) -> int:
    return cli.main(["predict", "-i", str(images), "-o", str(out), *FAST, *map(str, words)])


def probabilities(folder: Path, case: str) -> Any:
    return np.load(folder / f"{case}.npz")["probabilities"]


def labels_in(folder: Path, case: str) -> Any:
    return np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj)


def models(tmp_path: Path, labels: Any = CLASSES) -> list[Path]:
    return [model_of_folds(tmp_path / name, seed=seed, labels=labels) for seed, name in enumerate(("A", "B"))]


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_several_models_are_what_nnunet_makes_of_their_folders(tmp_path: Path, images: Path, labels: Any) -> None:
    both = models(tmp_path, labels)
    for folder in both:
        assert predict(images, tmp_path / f"alone_{folder.name}", "-m", folder, "-f", 0, 1, "--save_probabilities") == 0
    alone = [str(tmp_path / f"alone_{folder.name}") for folder in both]
    ensemble_folders(alone, str(tmp_path / "stock"), save_merged_probabilities=True, num_processes=1)
    out = tmp_path / "ours"
    assert predict(images, out, "--model", both[0], "--model", both[1], "-f", 0, 1, "--save_probabilities") == 0
    for case in ("case0", "case1"):
        np.testing.assert_array_equal(probabilities(out, case), probabilities(tmp_path / "stock", case))
        ours = labels_in(out, case)
        np.testing.assert_array_equal(ours, labels_in(tmp_path / "stock", case))
        assert len(np.unique(ours)) > 1
        assert (ours != labels_in(Path(alone[0]), case)).any() and (ours != labels_in(Path(alone[1]), case)).any()
        assert (out / f"{case}.pkl").read_bytes() == (tmp_path / "stock" / f"{case}.pkl").read_bytes()
    assert not [path for path in out.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]
    assert {row[0] for row in read_table(out / QUALITY_TABLE)[1:]} == {"case0", "case1"}


def test_members_that_are_folds_are_averaged_as_in_memory_and_tell_how_they_differ(
    tmp_path: Path, images: Path
) -> None:
    folder = model_of_folds(tmp_path / "A", seed=3, folds=3)
    for fold in range(3):
        assert predict(images, tmp_path / f"fold{fold}", "-m", folder, "-f", fold, "--save_probabilities") == 0
    out = tmp_path / "ours"
    assert predict(images, out, "-m", folder, "-f", 0, 1, 2, "--uncertainty", "--volumes", "--save_probabilities") == 0
    header, *rows = read_table(out / "volumes.csv")
    for case in ("case0", "case1"):
        each = np.stack([probabilities(tmp_path / f"fold{fold}", case) for fold in range(3)]).astype(np.float64)
        mean = each.mean(axis=0)
        np.testing.assert_allclose(probabilities(out, case), mean, atol=1e-6)

        def entropy(values: Any, axis: int) -> Any:
            return -(values * np.log(np.maximum(values, 1e-30))).sum(axis=axis) / np.log(3)

        expected = {"entropy": entropy(mean, 0), "disagreement": entropy(mean, 0) - entropy(each, 1).mean(axis=0)}
        for name, values in expected.items():
            image = nib.load(out / "uncertainty" / f"{case}_{name}.nii.gz")
            np.testing.assert_allclose(np.asarray(image.dataobj).transpose(2, 1, 0), values, atol=2e-6)
            np.testing.assert_allclose(image.affine, nib.load(images / f"{case}_0000.nii.gz").affine)
            assert values.max() > 0.05
        for label, region in ((1, "a"), (2, "b")):
            (row,) = (dict(zip(header, row)) for row in rows if row[:2] == [case, region])
            alone = [3.0 * (labels_in(tmp_path / f"fold{fold}", case) == label).sum() for fold in range(3)]
            found = [float(row[name]) for name in ("volume_mm3", "low_mm3", "high_mm3", "expected_mm3")]
            np.testing.assert_allclose(
                found,
                [3.0 * (mean.argmax(0) == label).sum(), min(alone), max(alone), 3.0 * mean[label].sum()],
                atol=0.1,
            )
            assert row["members"] == "3" and len(set(alone)) > 1


def test_folds_of_a_model_are_averaged_as_before(tmp_path: Path, images: Path) -> None:
    folder = model_of_folds(tmp_path / "A", seed=3)
    assert predict(images, tmp_path / "stock", "-m", folder, "-f", 0, 1, "--save_probabilities") == 0
    assert predict(images, tmp_path / "ours", "--model", folder, "-f", 0, 1, "--save_probabilities") == 0
    np.testing.assert_array_equal(probabilities(tmp_path / "stock", "case0"), probabilities(tmp_path / "ours", "case0"))


def test_one_network_and_one_average_are_there_at_a_time(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, alive, files = models(tmp_path), weakref.WeakSet(), []
    build = model_folder._build

    def counted(*args: Any) -> Any:
        gc.collect()
        files.append(len(list((tmp_path / "out").glob(".*/*"))))
        assert not alive
        network = build(*args)
        alive.add(network)
        return network

    monkeypatch.setattr(model_folder, "_build", counted)
    assert predict(images, tmp_path / "out", "--model", both[0], "--model", both[1], "-f", 0, 1) == 0
    assert len(files) == 2 + 2 * 2 and max(files) == 1


def test_weights_of_folds_are_read_in_turn_and_must_stay_what_they_were(tmp_path: Path) -> None:
    folder = model_of_folds(tmp_path / "A", seed=1, folds=2)
    weights = model_folder.read_model(folder, [0, 1], CHECKPOINT).weights
    first, second = weights
    name = next(iter(first))
    assert len(weights) == 2 and not torch.equal(first[name], second[name]) and weights[0][name] is not first[name]
    only = weights[1:]
    assert only[0] is only[0] and torch.equal(only[0][name], second[name])
    content = torch.load(folder / "fold_1" / CHECKPOINT)
    torch.save(content | {"more": 1}, folder / "fold_1" / CHECKPOINT)
    with pytest.raises(Exception, match="was changed while it was in use"):
        weights[1]


def test_an_interrupted_ensemble_goes_on(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, whole, out = models(tmp_path), tmp_path / "whole", tmp_path / "out"
    words = ["--model", both[0], "--model", both[1], "-f", 0, "--volumes", "--uncertainty"]
    assert predict(images, whole, *words) == 0
    calls, add = [], ensemble_prediction.add_to_mean

    def stopped(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # the second member of the second case
            raise KeyboardInterrupt
        return add(*args, **settings)

    monkeypatch.setattr(ensemble_prediction, "add_to_mean", stopped)
    assert predict(images, out, *words) == 130
    assert [path.name for path in out.glob("*.nii.gz")] == ["case0.nii.gz"] and not list(out.glob(".*.partial.*"))
    before = (out / "case0.nii.gz").stat().st_mtime_ns
    assert predict(images, out, *words, "--continue_prediction") == 0
    assert len(calls) == 4 + 2 and (out / "case0.nii.gz").stat().st_mtime_ns == before
    for path in sorted(whole.rglob("*.nii.gz")):
        np.testing.assert_array_equal(
            np.asarray(nib.load(path).dataobj), np.asarray(nib.load(out / path.relative_to(whole)).dataobj)
        )
    assert (out / "volumes.csv").read_text() == (whole / "volumes.csv").read_text()
    (out / "uncertainty" / "case1_entropy.nii.gz").unlink()
    assert predict(images, out, *words, "--continue_prediction") == 0
    assert len(calls) == 6 + 2 and (out / "uncertainty" / "case1_entropy.nii.gz").is_file()


def _other_labels(folder: Path) -> None:
    model_of_folds(folder, seed=9, labels={"labels": {"background": 0, "a": 1, "c": 2}})


def _flat(folder: Path) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    model(folder, axes=2, channels=3, ending=".png", reader=NaturalImage2DIO)


@pytest.mark.parametrize(
    ("make", "words", "sentence"),
    [
        (None, ["--model", "A", "--model", "A"], "is named twice, and would count twice"),
        (None, ["--model", "A", "-f", "0", "0"], "fold 0 is named twice"),
        (None, ["--model", "A", "--model", "nowhere"], "nowhere does not exist"),
        (None, ["--model", "A", "-m", "A"], "not with both"),
        (None, ["--model", "A", "-f", "4"], "has no checkpoint_final.pth of fold 4"),
        (_other_labels, ["--model", "A", "--model", "other"], "has other labels than"),
        (_flat, ["--model", "other", "--uncertainty"], "--uncertainty writes NIfTI files"),
        (None, ["--volumes"], "no model is named"),
    ],
)
def test_members_that_do_not_fit(
    make: Any, words: list[str], sentence: str, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    model_of_folds(tmp_path / "A", seed=0)
    if make is not None:
        make(tmp_path / "other")
    words = words if "-f" in words else [*words, "-f", "0"]
    assert predict(images, tmp_path / "out", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.nii.gz"))


def test_other_members_do_not_go_on(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, out = models(tmp_path), tmp_path / "out"
    assert predict(images, out, "--model", both[0], "-f", 0) == 0
    assert predict(images, out, "--model", both[1], "-f", 0, "--continue_prediction") == 2
    assert "names other members than this command" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.limits import largest_file

    folder = model_of_folds(tmp_path / "A", seed=0)
    with largest_file(10_000):
        code = predict(images, tmp_path / "out", "--model", folder, "-f", 0)
    assert code == 2 and "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.nii.gz")) and not list(tmp_path.glob("out/.*.partial.*"))


@pytest.mark.slow
def test_processes_add_as_threads_do(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ProcessPoolExecutor

    monkeypatch.undo()
    folder = model_of_folds(tmp_path / "A", seed=0)
    words = ["--model", folder, "-f", 0, 1, "--volumes"]
    assert predict(images, tmp_path / "threads", *words) == 0
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(case_workers, "workers", lambda count, *_, **__: ProcessPoolExecutor(1, mp_context=spawn))
    assert predict(images, tmp_path / "processes", *words) == 0
    for case in ("case0", "case1"):
        np.testing.assert_array_equal(labels_in(tmp_path / "threads", case), labels_in(tmp_path / "processes", case))
    assert (tmp_path / "threads" / "volumes.csv").read_text() == (tmp_path / "processes" / "volumes.csv").read_text()
