"""Checkpoints of masked pre-trainings on the shared prepared data sets, written without training."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.objectives.registry import objective_of
from bdfm_nnunet.presets import MIXTURE_TRAINER, TRAINER_PRESETS
from bdfm_nnunet.settings.blocks import pretraining_settings
from tests.conftest import Prepared


def masked_checkpoint(
    prepared: Prepared,
    path: Path,
    *,
    trainer: str = "nnUNetTrainerBDFMPretrain",
    pretraining: dict[str, Any] | None = None,
    seed: int = 9,
    inputs: int = 1,
    change: Any = None,
) -> Path:
    """Writes what a pre-training would: the untrained objective, and the plans that it was made by.

    Args:
        prepared: whose plans are taken.
        path: of the file.
        trainer: class name.
        pretraining: the block of that name.
        seed: of the weights, and of the training.
        inputs: channels of the network.
        change: called with the whole content before it is written.
    """
    folder = prepared.folder("nnUNet_preprocessed", prepared.unlabelled)
    plans = copy.deepcopy(json.loads((folder / f"{prepared.plans}.json").read_text()))
    blocks = {"pretraining": pretraining or {}, "training": {"seed": seed}}
    plans["configurations"]["probed"] = {"inherits_from": "3d_fullres", **blocks}
    configuration = resolve_configuration(plans, "probed")
    preset = None if trainer == MIXTURE_TRAINER else TRAINER_PRESETS.get(trainer, "bdfm")
    settings = pretraining_settings(configuration, preset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(configuration, inputs=inputs, outputs=2, deep_supervision=False)
        objective = objective_of(preset)(encoder_of(network), settings, spacing=configuration["spacing"])
        for parameter in objective.parameters():  # else the quiet last layer hides what the settings change
            torch.nn.init.normal_(parameter, std=0.2)
    dataset = json.loads((folder / "dataset.json").read_text())
    content = {
        "network_weights": objective.state_dict(),
        "init_args": {"plans": plans, "configuration": "probed", "dataset_json": dataset},
        "trainer_name": trainer,
    }
    if change is not None:
        change(content)
    torch.save(content, path)
    return path
