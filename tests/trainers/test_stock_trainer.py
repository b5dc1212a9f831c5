"""SwinUNet under trainers that know nothing of this package."""

import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.networks.swin_unet import SwinUNet
from bdfm_nnunet.plans import write_initial_checkpoint
from tests.conftest import Prepared, threads_for_spawn
from tests.training.trainings import checkpoint, curves, make_trainer, pretrained_encoder


def _short(kind: type, prepared: Prepared, variant: str) -> Any:
    """nnU-Net's trainers take their length from attributes, never from the plans."""
    trainer = make_trainer(kind, prepared, prepared.labelled, variant, {})
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 2
    return trainer


@pytest.mark.parametrize("kind", [nnUNetTrainer, pytest.param(nnUNetTrainerNoDeepSupervision, marks=pytest.mark.slow)])
def test_stock_trainers_train_and_validate_the_planned_network(
    kind: type, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)  # of the validation's export
    trainer = _short(kind, prepared, "stock")
    trainer.initialize()
    assert isinstance(trainer.network, SwinUNet)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run_training()
    assert math.isfinite(curves(trainer)["train_losses"][0])
    changed = [name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("encoder.stages.") for name in changed)
    trainer.inference_allowed_mirroring_axes = None  # eight times as fast
    trainer.perform_actual_validation()
    predictions = list((Path(trainer.output_folder) / "validation").glob("*.nii.gz"))
    assert len(predictions) == len(trainer.do_split()[1])
    again = _short(kind, prepared, "stock")
    again.load_checkpoint(str(checkpoint(trainer)))
    assert all(
        torch.equal(value, again.network.state_dict()[name]) for name, value in trainer.network.state_dict().items()
    )


def test_pretrained_weights_flag_of_the_stock_command(prepared: Prepared, tmp_path: Path) -> None:
    weights = pretrained_encoder(prepared, tmp_path / "pretrained.pth")
    write_initial_checkpoint(
        weights, dataset_id=prepared.labelled, plans_name=prepared.plans, out=tmp_path / "full.pth"
    )
    trainer = _short(nnUNetTrainer, prepared, "flag")
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "full.pth"))
    ours, theirs = read_checkpoint(weights).weights, trainer.network.state_dict()
    shared = [name for name in ours if name.startswith("encoder.stages.") and name in theirs]
    assert shared and all(torch.equal(ours[name], theirs[name]) for name in shared)
