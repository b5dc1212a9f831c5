"""A trainer of any name on trial, to see what it would do."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from bdfm_nnunet.cost_records import Costs, Schedule
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_costs import build_on
from bdfm_nnunet.nnunet_folders import changed_environment, trainer_search_path
from bdfm_nnunet.settings import LOGGERS_VARIABLE, WEIGHTS_VARIABLE
from bdfm_nnunet.training_costs import count_step


@contextlib.contextmanager
def trial_trainer(
    name: str,
    *,
    plans: Mapping[str, Any],
    configuration: str,
    dataset: Mapping[str, Any],
    device: torch.device | None = None,
) -> Iterator[nnUNetTrainer]:
    """Yield a trainer of all cases, from scratch, that leaves no trace: what it writes and prints is removed.

    Args:
        name: the trainer, as after `-tr`.
        plans: content of the plans file.
        configuration: one of its configurations.
        dataset: content of dataset.json.
        device: where it trains; by default the CPU.

    Raises:
        InputError: there is no such trainer.
    """
    with tempfile.TemporaryDirectory(prefix="bdfm_costs_") as folder, contextlib.redirect_stdout(io.StringIO()):
        changes = {
            "nnUNet_results": folder,
            "nnUNet_extTrainer": trainer_search_path(),
            WEIGHTS_VARIABLE: "none",
            LOGGERS_VARIABLE: "none",
        }
        with changed_environment(changes):
            try:
                kind = recursive_find_trainer_class_by_name(name)
            except RuntimeError:
                raise InputError(
                    f"-tr {name} does not exist: name a trainer of this package or of nnU-Net, or add the folder of "
                    "yours to nnUNet_extTrainer"
                ) from None
            content = {**deepcopy(dict(plans)), "continue_training": False}
            yield kind(content, configuration, "all", dict(dataset), device or torch.device("cpu"))


def count_training(trainer: nnUNetTrainer) -> Costs:
    """Count the costs of a step with one sample: of what the trainer trains, by its optimiser."""
    channels = determine_num_input_channels(trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json)

    def build() -> nn.Module:
        network: nn.Module = trainer.build_network_architecture(
            trainer.plans_manager,
            trainer.configuration_manager,
            channels,
            trainer.label_manager.num_segmentation_heads,
            trainer.enable_deep_supervision,
        )
        return network

    trainer.network = build_on(build)
    optimizer = getattr(trainer, "optimizer_kind", "sgd")
    return count_step(trainer.network, channels, trainer.configuration_manager.patch_size, optimizer=optimizer)


def schedule_of(trainer: nnUNetTrainer) -> Schedule:
    """Return the schedule that a trainer will follow."""
    return Schedule(
        epochs=trainer.num_epochs,
        iterations=trainer.num_iterations_per_epoch,
        val_iterations=trainer.num_val_iterations_per_epoch,
        batch_size=trainer.configuration_manager.batch_size,
    )
