"""The way from scans to scores in Python, on the shared prepared data sets, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

import bdfm_nnunet
from bdfm_nnunet import api
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.nnunet_scores import read_nnunet_scores
from tests.conftest import Prepared

TINY = {
    "training.epochs": 1,
    "training.iterations_per_epoch": 2,
    "training.val_iterations_per_epoch": 1,
    "training.workers": 0,
}


def test_the_package_names_the_way_and_imports_nothing_heavy_for_it() -> None:
    for name in bdfm_nnunet.__all__:
        assert getattr(bdfm_nnunet, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'pretrained'"):
        _ = bdfm_nnunet.pretrained
    code = "import sys, bdfm_nnunet; bdfm_nnunet.plan; print({'torch', 'nnunetv2', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.usefixtures("figures")
def test_from_pre_training_to_scores(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", "none")
    for number in (prepared.unlabelled, prepared.labelled):
        settings = TINY | ({"finetuning.encoder_lr_factor": 0.5} if number == prepared.labelled else {})
        plans = api.plan(number, variant="by_hand", settings=settings, plans_name=prepared.plans)
        assert plans == prepared.folder("nnUNet_preprocessed", number) / f"{prepared.plans}.json"
    named = {"configuration": "by_hand", "plans_name": prepared.plans, "device": "cpu"}
    weights = api.pretrain(prepared.unlabelled, fold=0, **named)  # type: ignore[arg-type]
    assert weights.is_file() and (weights.parent / "pretraining_summary.json").is_file()
    model = api.finetune(prepared.labelled, weights=f"last:{prepared.unlabelled}", **named)  # type: ignore[arg-type]
    report = (model.parent / "load_report.json").read_text()
    assert "100% starts from checkpoint_final.pth" in report
    raw, out = prepared.folder("nnUNet_raw", prepared.labelled), tmp_path / "predicted"
    validated = sorted(path.name for path in (model.parent / "validation").glob("*.nii.gz"))
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for name in validated:
        for path in (raw / "imagesTr").glob(f"{name.removesuffix('.nii.gz')}_*"):
            (images / path.name).symlink_to(path)
        (labels / name).symlink_to(raw / "labelsTr" / name)
    written = api.predict(images, out, model=model, device="cpu")
    assert [path.name for path in written] == validated and validated
    scores = api.evaluate(labels, out, dataset_id=prepared.labelled)
    trained = read_nnunet_scores(
        model.parent / "validation" / "summary.json",
        regions={name: tuple(region) for name, region in scores["regions"].items()},
        dataset="",
        file_ending=".nii.gz",
    )
    for ours, theirs in zip(scores["cases"], trained["cases"], strict=True):
        for region, found in theirs["regions"].items():
            assert ours["regions"][region]["dice"] == pytest.approx(found["dice"], abs=1e-3, nan_ok=True)


def test_a_folder_of_a_training_is_a_model_of_all_its_folds(tmp_path: Path) -> None:
    for fold in ("0", "2", "all"):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "checkpoint_final.pth").touch()
    assert api._model(tmp_path, None) == (tmp_path, ["0", "2"], "checkpoint_final.pth")
    assert api._model(tmp_path, ["all"])[1] == ["all"]
    best = tmp_path / "fold_2" / "checkpoint_best.pth"
    best.touch()
    assert api._model(best, None) == (tmp_path, ["2"], "checkpoint_best.pth")
    with pytest.raises(InputError, match="holds no fold"):
        api._model(tmp_path / "fold_0", None)


def test_what_does_not_go_together_is_refused(prepared: Prepared) -> None:
    with pytest.raises(InputError, match="settings and base need a variant"):
        api.plan(prepared.labelled, settings=TINY)
    with pytest.raises(InputError, match="network cannot go with variant"):
        api.plan(prepared.labelled, variant="by_hand", network="swin")
    with pytest.raises(InputError, match="said once"):
        api.evaluate("a", "b")
    with pytest.raises(InputError, match="said once"):
        api.evaluate("a", "b", release="brats2023-gli", dataset_id=1)
