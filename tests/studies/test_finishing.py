"""`bdfm finish`: the whole way from two trained folds, beside nnU-Net's own choice."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.evaluation.find_best_configuration import find_best_configuration

from bdfm_nnunet import cli
from bdfm_nnunet.prediction import ensemble_prediction
from bdfm_nnunet.table_files import read_table
from tests.prediction.ensemble_models import model_of_folds, write_images
from tests.studies.test_ensemble_trials import FAST, NAME, dataset, folders, labels_in

__all__ = ["folders"]


def run(*words: Any) -> int:
    return cli.main(["finish", *map(str, words), *FAST, "--workers", "1"])


def words_of(root: Path, *more: Any) -> list[Any]:
    return ["-d", 77, "-f", 0, 1, "-o", root / "out", *more]


ONE = ("-tr", "nnUNetTrainer", "-p", "Plans")


def test_the_choice_is_that_of_nnunet(folders: Path) -> None:
    model, raw = dataset(folders), folders / "nnUNet_raw" / NAME
    other = model_of_folds(model.parent / "nnUNetTrainer__Other__3d_fullres", seed=5)
    preprocessed = folders / "nnUNet_preprocessed" / NAME
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    for folder, plans in ((model, "Plans"), (other, "Other")):
        shutil.copy(folder / "plans.json", preprocessed / f"{plans}.json")
        content = json.loads((folder / "plans.json").read_text()) | {"dataset_name": NAME}
        (folder / "plans.json").write_text(json.dumps(content))
        for fold in (0, 1):
            images = folders / f"{plans}_{fold}"
            images.mkdir()
            for case in (2 * fold, 2 * fold + 1):
                for path in (raw / "imagesTr").glob(f"case{case}_*"):
                    shutil.copy(path, images)
            words = ["-m", folder, "-f", fold, "-i", images, "-o", folder / f"fold_{fold}" / "validation"]
            assert cli.main(["predict", *map(str, words), *FAST, "--save_probabilities"]) == 0
    chosen = tuple({"plans": plans, "configuration": "3d_fullres", "trainer": "nnUNetTrainer"}
                   for plans in ("Plans", "Other"))  # fmt: skip
    stock = find_best_configuration(NAME, chosen, folds=(0, 1), num_processes=1)
    assert run(*words_of(folders, "--model", model, "--model", other, "--postprocess", "nnunet")) == 0
    found = json.loads((folders / "out" / "finish.json").read_text())
    assert [*found["crossval_dice"].values()] == pytest.approx([*stock["all_results"].values()], abs=1e-9)
    best = stock["best_model_or_ensemble"]["selected_model_or_models"]
    assert len(found["models"]) == len(best) and len({*found["crossval_dice"].values()}) == 3
    ensembles = next((folders / "nnUNet_results" / NAME / "ensembles").iterdir())
    for case in range(4):
        np.testing.assert_array_equal(
            labels_in(folders / "out" / "crossval" / "candidate_2" / f"case{case}.nii.gz"),
            labels_in(ensembles / f"case{case}.nii.gz"),
        )
    number = [*found["crossval_dice"]].index(found["chosen"])
    ours = json.loads((folders / "out" / "crossval" / f"candidate_{number}" / "postprocessing.json").read_text())
    theirs = json.loads((Path(stock["best_model_or_ensemble"]["postprocessing_file"]).with_suffix(".json")).read_text())
    assert ours["postprocessing_kwargs"] == theirs["postprocessing_kwargs"]


def test_one_command_from_folds_to_predictions_goes_on(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = dataset(folders)
    images = write_images(folders / "new", cases=2, seed=9)
    words = words_of(folders, *ONE, "-i", images, "--disable_tta", "--uncertainty")
    add, calls = ensemble_prediction.add_to_mean, []

    def stopped(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(*args, **settings)

    monkeypatch.setattr(ensemble_prediction, "add_to_mean", stopped)
    assert run(*words) == 130
    out = folders / "out"
    first = out / "predictions" / "case0.nii.gz"
    times = first.stat().st_mtime_ns, (out / "rules.json").stat().st_mtime_ns
    assert not (out / "predictions" / "case1.nii.gz").exists()
    (out / "crossval" / "candidate_0" / "summary.json").unlink()
    for folder in ("candidate_0", "references", "tuned"):  # of a run that was killed
        (out / "crossval" / folder / ".4194303.partial.case9.nii.gz").write_bytes(b"half")
    assert run(*words) == 0 and len(calls) == 3
    assert (first.stat().st_mtime_ns, (out / "rules.json").stat().st_mtime_ns) == times
    shown = capsys.readouterr().out
    assert "chosen: all" in shown and "temperature" in shown and "tuned for whole" in shown
    alone = ["-m", model, "-f", 0, 1, "-i", images, "-o", folders / "alone", "--disable_tta"]
    rules = json.loads((out / "rules.json").read_text())
    if rules["evidence"]["recommended"] and rules["rules"]:
        alone += ["--postprocess", out / "rules.json"]
    assert cli.main(["predict", *map(str, alone), *FAST]) == 0
    for case in ("case0", "case1"):
        theirs = labels_in(folders / "alone" / f"{case}.nii.gz")
        np.testing.assert_array_equal(labels_in(out / "predictions" / f"{case}.nii.gz"), theirs)
        assert (out / "predictions" / "uncertainty" / f"{case}_entropy.nii.gz").is_file()
    assert len(read_table(out / "predictions" / "volumes.csv")) == 1 + 2 * 2
    found = json.loads((out / "finish.json").read_text())
    assert [*found["seconds"]] == ["cross-validation", "choice", "post-processing", "prediction"]
    assert run(*words_of(folders, *ONE, "-i", folders / "nnUNet_raw" / NAME / "imagesTr", "--disable_tta")) == 2
    assert "was made with other images" in capsys.readouterr().err
    assert run(*words_of(folders, *ONE, "-i", images)) == 2
    assert "was made with other disable_tta" in capsys.readouterr().err


def test_predictions_are_packed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdfm_nnunet.dataset_conversion import Release

    dataset(folders)
    form = Release(name="small", title="small", dataset_name="Small", case_pattern="case.+", patient_pattern="",
                   channels={}, labels={1: "a", 2: "b"}, label_map={1: 1, 2: 2},
                   submission_name="{case}-seg.nii.gz", scored_regions={"all": (1, 2), "b": (2,)})  # fmt: skip
    monkeypatch.setattr("bdfm_nnunet.dataset_conversion.find_release", lambda name: form)
    images = write_images(folders / "new", cases=2, seed=9)
    more = [
        "-i",
        images,
        "--release",
        "small",
        "--submission",
        folders / "out.zip",
        "--postprocess",
        "none",
        "--uncertainty",
    ]
    assert run(*words_of(folders, *ONE, *more, "--disable_tta")) == 0
    with zipfile.ZipFile(folders / "out.zip") as archive:
        assert archive.namelist() == ["case0-seg.nii.gz", "case1-seg.nii.gz"]
    rows = read_table(folders / "out" / "predictions" / "volumes.csv")
    assert [row[1] for row in rows[1:]] == ["all", "b"] * 2 and all(row[5] for row in rows[1:])


def test_a_container_is_written(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset(folders, cases=2)
    words = words_of(folders, *ONE, "--container", "plain", "--postprocess", "none", "--disable_tta")
    assert run(*words) == 0
    assert (folders / "out" / "container" / "Dockerfile").is_file()
    assert run(*words) == 0 and "stays" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-f", 0], "-d is missing"),
        (["-d", 77, "--submission", "a.zip"], "--submission needs the images"),
        (["-d", 77, "--container", "plain", "--postprocess", "nnunet"], "a container applies rules"),
        (["-d", 77, "--container", "moon"], "moon"),
        (["-d", 77, *ONE, "-f", 3], "has no checkpoint_final.pth of fold 3"),
    ],
)
def test_what_could_not_end_is_refused_at_once(
    words: list[Any], sentence: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset(folders, cases=2)
    capsys.readouterr()
    assert run(*words, "-o", folders / "out") == 2
    assert sentence in capsys.readouterr().err and not (folders / "out" / "crossval").exists()
