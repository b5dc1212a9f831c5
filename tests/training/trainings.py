"""Trainers made as nnU-Net makes them, on the shared prepared data sets."""

import json
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.plans import add_variant
from bdfm_nnunet.plans.plans_lookup import read_plans
from tests.conftest import Prepared

SHORT = {
    "training.epochs": 2,
    "training.iterations_per_epoch": 3,
    "training.val_iterations_per_epoch": 2,
    "training.save_every": 1,
}


def make_trainer(
    kind: type,
    prepared: Prepared,
    dataset_id: int,
    variant: str,
    settings: dict[str, Any],
    *,
    plans_name: str | None = None,
) -> Any:
    """A trainer for a variant of the prepared plans, or of those of another name."""
    plans_name = plans_name or prepared.plans
    add_variant(dataset_id, plans_name=plans_name, variant=variant, settings=SHORT | settings)
    folder = prepared.folder("nnUNet_preprocessed", dataset_id)
    plans = json.loads((folder / f"{plans_name}.json").read_text())
    plans["continue_training"] = False
    dataset = json.loads((folder / "dataset.json").read_text())
    return kind(plans, variant, 0, dataset, torch.device("cpu"))


def curves(trainer: Any) -> dict[str, list[float]]:
    """What was logged, without the times."""
    log = trainer.logger.local_logger.my_fantastic_logging
    return {name: [float(v) for v in values] for name, values in log.items() if _is_curve(name, values)}


def _is_curve(name: str, values: list[Any]) -> bool:
    return bool(values) and "timestamps" not in name and not isinstance(values[0], list)


def checkpoint(trainer: Any, name: str = "final") -> Path:
    """A checkpoint in the trainer's folder."""
    return Path(trainer.output_folder) / f"checkpoint_{name}.pth"


def stock_network(prepared: Prepared, *, channels: int, configuration: str = "3d_fullres") -> nn.Module:
    """The network that nnU-Net's own trainer builds from the plans of the labelled data set."""
    manager = PlansManager(read_plans(prepared.labelled, prepared.plans))
    chosen = manager.get_configuration(configuration)
    return nnUNetTrainer.build_network_architecture(manager, chosen, channels, 3, True)


def pretrained_encoder(prepared: Prepared, path: Path, *, seed: int = 9) -> Path:
    """Writes the checkpoint of an untrained objective around the planned encoder, of one channel."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = MaskedImageModelling(encoder_of(stock_network(prepared, channels=1)))
    torch.save({"network_weights": objective.state_dict()}, path)
    return path
