"""Trainers made as nnU-Net makes them, on the shared prepared data sets."""

import json
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared

SHORT = {
    "training.epochs": 2,
    "training.iterations_per_epoch": 3,
    "training.val_iterations_per_epoch": 2,
    "training.save_every": 1,
}


def make_trainer(kind: type, prepared: Prepared, dataset_id: int, variant: str, settings: dict[str, Any]) -> Any:
    """A trainer for a variant of the prepared plans."""
    add_variant(dataset_id, plans_name=prepared.plans, variant=variant, settings=SHORT | settings)
    folder = prepared.folder("nnUNet_preprocessed", dataset_id)
    plans = json.loads((folder / f"{prepared.plans}.json").read_text())
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
