"""Models under the name of a stock trainer, in nnU-Net's own predictor."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.sharing import export_model
from tests.networks import zoo
from tests.sharing.made_checkpoints import RUN, plans_of

DATASET = {
    "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2], "file_ending": ".nii.gz", "numTraining": 2,
    "dataset": {"p1": {"images": ["/home/me/p1.nii.gz"], "label": "/home/me/l.nii.gz"}},
}  # fmt: skip


def model(folder: Path, kind: str, *, folds: tuple[str, ...] = ("0",), legacy: bool = False, **changes: Any) -> Path:
    """A model folder as our fine-tuning leaves it, of an untrained network."""
    resampling = {
        f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg"} for what in ("data", "seg", "probabilities")
    }
    base = plans_of(kind, finetuning={"weights": "/home/me/a.pth"}, **resampling)
    base["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    settings = base["configurations"]["3d_fullres"]
    if legacy:
        settings["architecture"]["arch_kwargs"] = settings["architecture"]["arch_kwargs"] | {"legacy": True}
    plans = json.loads(json.dumps(base)) | {"image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
    for fold in folds:
        torch.manual_seed(ord(fold[0]))
        network = build_network(settings, inputs=2, outputs=2, deep_supervision=True)
        content = {
            "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainerBDFM", "current_epoch": 5,
            "optimizer_state": {"state": {}}, "bdfm_exposure": {"format": 1, "runs": [RUN]},
            "init_args": {"plans": plans, "configuration": "mine", "fold": fold, "dataset_json": DATASET},
            "inference_allowed_mirroring_axes": (0, 2),
        }  # fmt: skip
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(content | changes, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


@pytest.mark.parametrize(
    ("kind", "legacy"), [("resenc", False), ("plain", False), ("resnet18", False), ("swin", False), ("swin", True)]
)
def test_nnunets_predictor_gives_the_same_logits_without_our_trainers(
    kind: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from bdfm_nnunet.prediction.model_folder import read_model

    source = model(tmp_path / "model", kind, folds=("0", "all"), legacy=legacy)
    with caplog.at_level(logging.INFO):
        out = export_model(source, tmp_path / "stock")
    assert ("must be installed" in caplog.text) == (kind in ("swin", "resnet18"))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(out), use_folds=(0, "all"))
    assert predictor.trainer_name == "nnUNetTrainer" and tuple(predictor.allowed_mirroring_axes) == (0, 2)
    ours = read_model(source, (0, "all"), "checkpoint_final.pth")
    image = torch.randn(1, 2, 16, 32, 24)
    for theirs, weights in zip(predictor.list_of_parameters, ours.weights, strict=True):
        predictor.network.load_state_dict(theirs)
        ours.network.load_state_dict(weights)
        assert torch.equal(predictor.network.eval()(image), ours.network.eval()(image))


def test_what_a_training_needs_and_this_machine_stays_here(tmp_path: Path) -> None:
    source = model(tmp_path / "model", "plain")
    out = export_model(source / "fold_0" / "checkpoint_final.pth", tmp_path / "stock")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "dataset.json", "fold_0/checkpoint_final.pth", "plans.json"
    ]  # fmt: skip
    content = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert set(content) == {
        "network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "bdfm_exposure",
    }  # fmt: skip
    told = json.dumps(content["init_args"]) + (out / "plans.json").read_text() + (out / "dataset.json").read_text()
    assert "/home/me" not in told and content["init_args"]["fold"] == 0
    assert read_checkpoint(out / "fold_0" / "checkpoint_final.pth").exposure["runs"] == [RUN]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trainer_name": "nnUNetTrainerSimMIM"}, "is of a pre-training"),
        ({"trainer_name": "nnUNetTrainerOfSomebody"}, "network may differ from the one in the plans"),
        ({"trainer_name": None}, "is of no named trainer"),
        ({"init_args": {"configuration": "other"}}, "does not name|does not have"),
        ({"network_weights": zoo.network("resnet18", 2).state_dict()}, "does not fit the PlainConvUNet of the plans"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    source = model(tmp_path / "model", "plain", folds=("0", "1"), **changes)
    with pytest.raises(InputError, match=sentence):
        export_model(source, tmp_path / "stock")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no fold_"):
        export_model(tmp_path, tmp_path / "stock")
    source = model(tmp_path / "model", "plain")
    (source / "fold_0" / "checkpoint_final.pth").rename(source / "checkpoint_final.pth")
    with pytest.raises(InputError, match="does not lie in the folder of a fold"):
        export_model(source / "checkpoint_final.pth", tmp_path / "stock")
    (tmp_path / "model" / "plans.json").unlink()
    (source / "checkpoint_final.pth").rename(source / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(InputError, match=r"plans\.json does not exist"):
        export_model(source, tmp_path / "stock")
