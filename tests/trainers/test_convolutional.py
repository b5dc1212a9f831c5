"""Planned convolutional networks: pre-trained with one channel, fine-tuned with four, predicted with stock commands."""

import json
import math
import multiprocessing
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from torch import nn

from bdfm_nnunet import cli
from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.nnunet_folders import trainer_search_path
from bdfm_nnunet.plans import plan_dataset
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared, threads_for_spawn
from tests.small_datasets import SmallDataset
from tests.training.trainings import checkpoint, curves, make_trainer

TINY = {
    "patch_size": [16, 16, 16],
    "training.epochs": 1,
    "training.iterations_per_epoch": 2,
    "training.val_iterations_per_epoch": 1,
    "pretraining.decoder_channels": 8,
    "pretraining.block_size": 2,
}


@pytest.mark.parametrize(
    "kind", ["resnet18", pytest.param("resenc", marks=pytest.mark.slow), pytest.param("plain", marks=pytest.mark.slow)]
)
def test_from_planning_to_fine_tuning(kind: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = f"Tiny{kind}"
    for dataset_id in (prepared.unlabelled, prepared.labelled):
        plan_dataset(dataset_id, network=kind, gpu_memory=0.3, plans_name=plans, preprocess=False)
    pretraining = _trained(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, plans)
    assert pretraining.optimizer_kind == "sgd"
    monkeypatch.setenv("BDFM_WEIGHTS", str(checkpoint(pretraining)))
    tuned = _trained(nnUNetTrainerBDFM, prepared, prepared.labelled, plans)
    log = Path(tuned.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log
    assert tuned.num_input_channels == 4
    _check_statistics(checkpoint(pretraining), tuned.network)
    assert read_checkpoint(checkpoint(tuned)).trainer == "nnUNetTrainerBDFM"


def _check_statistics(path: Path, network: nn.Module) -> None:
    """Batch norms take their statistics over, too, where the network has some."""
    names = [name for name in network.state_dict() if name.startswith("encoder.") and "running" in name]
    report = load_pretrained(network, path)
    state, weights = network.state_dict(), read_checkpoint(path).weights
    assert report.buffers >= len(names) and not [name for name in report.new if "running" in name]
    assert all(torch.equal(state[name], weights[name]) and weights[name].std() > 0 for name in names)


def _trained(kind: type, prepared: Prepared, dataset_id: int, plans: str) -> Any:
    trainer = make_trainer(kind, prepared, dataset_id, "tiny", TINY, plans_name=plans)
    trainer.run_training()
    assert math.isfinite(curves(trainer)["train_losses"][0])
    return trainer


THICK = SmallDataset(number=606, shape=(36, 30, 20), spacing=(1.0, 1.0, 2.0), channels=2)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "like"), [("resenc", True), ("resnet18", False)])
def test_stock_prediction_of_what_was_fine_tuned(
    kind: str, like: bool, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way by commands; for ResEnc with the plans of a checkpoint of any spacing and other order of axes."""
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    monkeypatch.setenv("nnUNet_extTrainer", trainer_search_path())
    data = replace(THICK, number=606 if like else 607)
    raw, dataset_id = data.write(prepared.root / "nnUNet_raw"), str(data.number)
    for path in raw.rglob("case_2*.nii.gz"):  # from another scanner
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.diag([0.8, 0.8, 3.0, 1.0])), path)
    names = ("conv3d_transpose_1.weight", "encoder.patch_embed.proj.weight")
    torch.save({"state_dict": dict.fromkeys(names, torch.ones(1))}, tmp_path / "public.pth")
    options = ["--like", str(tmp_path / "public.pth"), "--spacing", "no_resample"] if like else []
    plan = ["plan", "-d", dataset_id, "-p", "Stock", "--workers", "1"]
    assert cli.main([*plan, "--network", kind, "--gpu-memory", "0.5", *options]) == 0
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert cli.main([*plan, "--variant", "short", *settings]) == 0
    what = [dataset_id, "short", "0", "-p", "Stock", "-device", "cpu", "-tr"]
    assert cli.main(["train", *what, "nnUNetTrainerBDFMPretrain"]) == 0
    monkeypatch.setenv("BDFM_WEIGHTS", f"last:{dataset_id}")
    assert cli.main(["train", *what, "nnUNetTrainerBDFM"]) == 0
    (tmp_path / "in").mkdir()
    for path in (raw / "imagesTr").glob("case_2_*"):
        shutil.copy(path, tmp_path / "in")
    model = ["-d", dataset_id, "-c", "short", "-f", "0", "-p", "Stock", "-tr", "nnUNetTrainerBDFM", "-device", "cpu"]
    files = ["-i", str(tmp_path / "in"), "-npp", "0", "-nps", "0", "--disable_tta", "-o"]
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *model, *files, str(tmp_path / "stock")])
    predict_entry_point()
    assert cli.main(["predict", *model, *files, str(tmp_path / "ours")]) == 0
    stock, ours = (nib.load(tmp_path / folder / "case_2.nii.gz") for folder in ("stock", "ours"))
    truth = nib.load(raw / "labelsTr" / "case_2.nii.gz")
    assert stock.shape == truth.shape and np.allclose(stock.affine, truth.affine)
    np.testing.assert_array_equal(np.asarray(stock.dataobj), np.asarray(ours.dataobj))
    folder = prepared.folder("nnUNet_preprocessed", data.number)
    (path,) = (path for path in folder.glob("*_3d_fullres/case_2.b2nd"))
    x, y, z = truth.shape
    assert (blosc2.open(str(path), mode="r").shape[1:] == (z, x, y)) == like  # neither resampled nor in another order
