"""The summary says what the steps left, in numbers and in words."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import evaluate_folders
from bdfm_nnunet.reports.demo_summary import DemoFiles, differences, write_demo_page, write_summary
from bdfm_nnunet.reports.figures import progress_figure, save_figure
from bdfm_nnunet.results import RunResult, read_result, write_result

OLD = Path(__file__).parents[1] / "results" / "old"
REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
NUMBERS = {
    "loss_first": 2.0,
    "loss_last": 0.5,
    "psnr": 23.25,
    "psnr_mean_fill": 17.0,
    "ssim": 0.61,
    "ssim_mean_fill": 0.2,
}


@pytest.fixture
def files(tmp_path):
    """Two cases; the first method predicts the reference, the second nothing."""
    folders = {name: tmp_path / name for name in ("images", "reference", "good", "empty")}
    for folder in folders.values():
        folder.mkdir()
    for case in make_cohort(tmp_path / "cohort", cases=2, seed=1, spacing=6.0, shape=(26, 32, 26)):
        (case / f"{case.name}-t1c.nii.gz").rename(folders["images"] / f"{case.name}_0001.nii.gz")
        labels = (case / f"{case.name}-seg.nii.gz").read_bytes()
        (folders["reference"] / f"{case.name}.nii.gz").write_bytes(labels)
        (folders["good"] / f"{case.name}.nii.gz").write_bytes(labels)
        blank(case / f"{case.name}-seg.nii.gz", folders["empty"] / f"{case.name}.nii.gz")
    scores = {name: tmp_path / f"{name}.json" for name in ("good", "empty")}
    for name, path in scores.items():
        evaluate_folders(folders["reference"], folders[name], regions=REGIONS, release="made-up", out=path)
    pretraining = tmp_path / "fold_0"
    write_result(pretraining / "pretraining_summary.json", RunResult(kind="pretraining", extra=NUMBERS))
    for name in ("progress.png", "reconstructions/epoch_0001.png", "reconstructions/epoch_0002.png"):
        save_figure(progress_figure({name: {"a": [1.0]}}), pretraining / name)
    return DemoFiles(
        out=tmp_path / "out",
        pretraining=pretraining,
        images=folders["images"],
        reference=folders["reference"],
        predictions={"from scratch": folders["empty"], "fine-tuned": folders["good"]},
        scores={"from scratch": scores["empty"], "fine-tuned": scores["good"]},
    )


def blank(source, target):
    import nibabel

    image = nibabel.load(source)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), target)


def write(files):
    return write_summary(files, settings={"seed": 1}, seconds={"pre-train": 61.24}, started=time.monotonic() - 90)


def test_summary_holds_every_number(files):
    summary = write(files)
    assert summary["pretraining"] == NUMBERS
    assert summary["segmentation"]["fine-tuned"]["whole_tumor"]["dice"]["mean"] == 1.0
    assert summary["segmentation"]["from scratch"]["whole_tumor"]["hd95_mm"]["mean"] == 374.0
    assert summary["difference"]["whole_tumor"]["dice"]["mean"] == 1.0
    assert (summary["metrics"], summary["test_cases"]) == ("whole", 2)
    assert summary["seconds"] == {"pre-train": 61.2} and summary["total_seconds"] >= 90
    assert summary["settings"] == {"seed": 1}
    assert json.loads((files.out / "summary.json").read_text()) == json.loads(json.dumps(summary))


def test_page_says_that_lesions_are_synthetic_and_shows_both_methods(files):
    write(files)
    text = (files.out / "summary.md").read_text()
    assert "all lesions are synthetic" in text and "prove nothing about clinical data" in text
    assert "23.25 dB" in text and "17.00 dB (difference +6.25 dB)" in text
    assert "| Loss, first epoch | 2.0000 |" in text and "| Loss, last epoch | 0.5000 |" in text
    assert (
        "| whole_tumor | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] | 374.0 [374.0, 374.0] | 0.0 [0.0, 0.0] |" in text
    )
    assert "Dice, fine-tuned minus from scratch" in text and "- whole_tumor: 1.000 [1.000, 1.000]" in text


def test_every_picture_of_the_page_exists(files):
    summary = write(files)
    assert set(summary["figures"]) == {"Reconstruction", "Pre-training", "Dice per region", "Segmentations"}
    text = (files.out / "summary.md").read_text()
    for path in summary["figures"].values():
        assert (files.out / path).stat().st_size > 1000 and f"]({path})" in text
    last = files.pretraining / "reconstructions" / "epoch_0002.png"
    assert (files.out / summary["figures"]["Reconstruction"]).read_bytes() == last.read_bytes()


def test_page_to_look_at_has_both_methods_and_the_pre_training(files):
    write(files)
    page = write_demo_page(files).read_text()
    assert "fine-tuned minus from scratch, case by case" in page and "epoch_0002.png" in page
    assert "all lesions are synthetic" in page
    assert page.count('<img src="data:image/png') == 1 + 3 * 2


def test_missing_pictures_of_the_trainer_are_left_out(files):
    for path in files.pretraining.rglob("*.png"):
        path.unlink()
    assert set(write(files)["figures"]) == {"Dice per region", "Segmentations"}


def test_incomplete_numbers_of_the_trainer_are_an_error(files):
    path = files.pretraining / "pretraining_summary.json"
    write_result(path, RunResult(kind="pretraining", extra={"psnr": 1.0}))
    with pytest.raises(InputError, match=r"pretraining_summary\.json lacks loss_first, loss_last"):
        write(files)


def test_an_old_pretraining_is_shown_and_another_result_in_its_place_refused(files):
    path = files.pretraining / "pretraining_summary.json"
    shutil.copyfile(OLD / "pretraining_summary.json", path)
    assert write(files)["pretraining"]["psnr"] == 12.04022741317749
    shutil.copyfile(OLD / "scores.json", path)
    with pytest.raises(InputError, match=r"pretraining_summary\.json is the result of kind 'evaluation', expected"):
        write(files)


def test_the_summary_is_a_result_itself(files):
    summary = write(files)
    found = read_result(files.out / "summary.json", kind="demo")
    assert found.as_dict() == json.loads(json.dumps(summary))
    assert found.cost.seconds == summary["total_seconds"] and found.versions["torch"]
    assert found.extra["figures"] == summary["figures"] and found.settings == {"seed": 1}


def test_difference_is_taken_case_by_case():
    def result(values):
        cases = [{"case": str(i), "regions": {"a": {"dice": v}}} for i, v in enumerate(values)]
        return {"summary": {"a": {"dice": {}}}, "cases": cases}

    row = differences({"first": result([0.1, 0.5, 0.9]), "second": result([0.2, 0.6, 1.0])})["a"]["dice"]
    assert row["mean"] == pytest.approx(0.1)
    assert row["low"] == pytest.approx(0.1) and row["high"] == pytest.approx(0.1)
