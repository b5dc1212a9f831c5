"""Planned convolutional networks: pre-trained with one channel, fine-tuned with four."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.plans import plan_dataset
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.training.trainings import checkpoint, curves, make_trainer

TINY = {
    "patch_size": [16, 16, 16],
    "training.epochs": 1,
    "training.iterations_per_epoch": 2,
    "training.val_iterations_per_epoch": 1,
    "pretraining.decoder_channels": 8,
    "pretraining.block_size": 2,
}


@pytest.mark.parametrize("kind", ["resenc", "plain", "resnet18"])
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
