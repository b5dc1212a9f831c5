"""Primus in nnU-Net's trainings: pre-trained with one channel, fine-tuned with four, predicted with stock commands."""

import json
import math
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bdfm_nnunet import cli
from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.nnunet_folders import trainer_search_path
from bdfm_nnunet.plans.plans_lookup import plans_path
from bdfm_nnunet.trainers import (
    nnUNetTrainerBDFM,
    nnUNetTrainerBDFMPretrain,
    nnUNetTrainerFrepa,
    nnUNetTrainerSimCLR,
    nnUNetTrainerSimMIM,
)
from tests.conftest import Prepared, threads_for_spawn
from tests.small_datasets import REGIONS, SmallDataset
from tests.training.trainings import checkpoint, curves, make_trainer

TINY: dict[str, Any] = {
    "training.epochs": 1,
    "training.iterations_per_epoch": 2,
    "training.val_iterations_per_epoch": 1,
    "training.workers": 0,
}


def _plans(prepared: Prepared, dataset_id: int, version: int) -> str:
    """Plans of the prepared data sets for a tiny Primus."""
    plans = json.loads(plans_path(dataset_id, prepared.plans).read_text())
    plans["plans_name"] = name = f"TinyPrimus{version}"
    configuration = plans["configurations"]["3d_fullres"]
    sizes = {"input_shape": [32, 24, 16], "embed_dim": 24, "eva_depth": 2, "eva_numheads": 2, "version": version}
    configuration |= {"patch_size": sizes["input_shape"], "batch_size": 2, "costs": None}
    configuration["architecture"] = {
        "network_class_name": "bdfm_nnunet.networks.primus.PrimusNet",
        "arch_kwargs": sizes | {"strides": [[1, 1, 1], [2, 2, 2], [4, 4, 4]]},
        "_kw_requires_import": [],
    }
    plans["configurations"] = {"3d_fullres": configuration}
    plans_path(dataset_id, name).write_text(json.dumps(plans))
    return name


def _trained(kind: type, prepared: Prepared, dataset_id: int, version: int, **settings: Any) -> Any:
    plans = _plans(prepared, dataset_id, version)
    trainer = make_trainer(kind, prepared, dataset_id, "tiny", TINY | settings, plans_name=plans)
    trainer.run_training()
    assert math.isfinite(curves(trainer)["train_losses"][0])
    return trainer


@pytest.mark.parametrize("version", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_masked_pretraining_and_fine_tuning(version: int, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    pretraining = _trained(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, version)
    view = pretraining.task.objective.view
    assert pretraining.optimizer_kind == "adamw" and view.is_transformer and view.masks_tokens == (version == 1)
    monkeypatch.setenv("BDFM_WEIGHTS", str(checkpoint(pretraining)))
    tuned = _trained(nnUNetTrainerBDFM, prepared, prepared.labelled, version)
    log = Path(tuned.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log
    assert tuned.optimizer_kind == "adamw" and tuned.num_input_channels == 4
    assert not tuned.network.decoder.deep_supervision or tuned.enable_deep_supervision
    before, after = (read_checkpoint(checkpoint(each)).weights for each in (pretraining, tuned))
    names = [name for name in after if name.startswith("encoder.eva.blocks.") and name in before]
    assert names and all(after[name].isfinite().all() for name in names)
    assert all(not torch.equal(before[name], after[name]) for name in names if name.endswith("q_proj.weight"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (nnUNetTrainerBDFMPretrain, {"pretraining.encode": "visible"}),
        (nnUNetTrainerSimMIM, {}),
        (nnUNetTrainerSimCLR, {"pretraining.queue": 4}),
        (nnUNetTrainerFrepa, {}),
    ],
    ids=["visible", "simmim", "simclr", "frepa"],
)
def test_every_objective_trains_it(kind: type, settings: dict[str, Any], prepared: Prepared) -> None:
    trainer = _trained(kind, prepared, prepared.unlabelled, 1, **settings)
    encoder = [name for name in read_checkpoint(checkpoint(trainer)).weights if name.startswith("encoder.eva.blocks.")]
    assert len(encoder) > 20


def test_stock_trainer_trains_it(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """With deep supervision, whose last resolution has no weight."""
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda trainer: None)
    plans = _plans(prepared, prepared.labelled, 2)
    trainer = make_trainer(nnUNetTrainer, prepared, prepared.labelled, "stock", TINY, plans_name=plans)
    trainer.num_epochs = trainer.num_val_iterations_per_epoch = 1
    trainer.num_iterations_per_epoch = 2
    trainer.run_training()
    assert trainer.enable_deep_supervision and math.isfinite(curves(trainer)["train_losses"][0])


SLICES = SmallDataset(number=605, shape=(36, 34, 11), spacing=(1.0, 1.0, 3.0), channels=5, labels=REGIONS)


@pytest.mark.slow
def test_the_whole_way_with_the_commands(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bdfm plan --network primus-s`, `bdfm train` and nnUNetv2_predict on anisotropic images of five channels."""
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    monkeypatch.setenv("nnUNet_extTrainer", trainer_search_path())
    raw = SLICES.write(prepared.root / "nnUNet_raw")
    plan = ["plan", "-d", "605", "--network", "primus-s", "--gpu-memory", "1", "-p", "Primus"]
    assert cli.main([*plan, "--workers", "1"]) == 0
    assert cli.main(["plan", "-d", "605", "-p", "Primus", "--variant", "short",
                     *(part for key, value in TINY.items() for part in ("--set", f"{key}={value}"))]) == 0  # fmt: skip
    what = ["605", "short", "0", "-p", "Primus", "-device", "cpu"]
    assert cli.main(["train", *what, "-tr", "nnUNetTrainerBDFMPretrain"]) == 0
    (pretrained,) = Path(os.environ["nnUNet_results"]).glob("*/nnUNetTrainerBDFMPretrain*/fold_0/checkpoint_final.pth")
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    assert cli.main(["train", *what, "-tr", "nnUNetTrainerBDFM"]) == 0
    (tmp_path / "in").mkdir()
    for path in (raw / "imagesTr").glob("case_2_*"):
        shutil.copy(path, tmp_path / "in")
    command = ["-d", "605", "-c", "short", "-f", "0", "-p", "Primus", "-tr", "nnUNetTrainerBDFM", "-device", "cpu"]
    files = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-npp", "0", "-nps", "0", "--disable_tta"]
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *command, *files])
    predict_entry_point()
    found, expected = nib.load(tmp_path / "out" / "case_2.nii.gz"), nib.load(raw / "labelsTr" / "case_2.nii.gz")
    assert found.shape == expected.shape and set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2}
