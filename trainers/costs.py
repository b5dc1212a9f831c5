"""What a training will cost, counted before it starts."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.folders import trainer_search_path
from bdfm_nnunet.networks.costs import Costs, build_on, count_costs
from bdfm_nnunet.objectives import MaskedImageModelling
from bdfm_nnunet.trainers.finetuning import WEIGHTS_VARIABLE

NUMBERS_PER_PARAMETER = {"adamw": 4, "sgd": 3}
"""What an optimiser keeps, weight and gradient included."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length of a training.

    Attributes:
        epochs: of the whole training.
        iterations: optimiser steps in an epoch.
        val_iterations: validation batches after each epoch.
        batch_size: samples of a step.
    """

    epochs: int
    iterations: int
    val_iterations: int
    batch_size: int

    @classmethod
    def of(cls, trainer: nnUNetTrainer) -> "Schedule":
        """The schedule that a trainer will follow."""
        return cls(
            epochs=trainer.num_epochs,
            iterations=trainer.num_iterations_per_epoch,
            val_iterations=trainer.num_val_iterations_per_epoch,
            batch_size=trainer.configuration_manager.batch_size,
        )

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.iterations

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch trains on."""
        return self.iterations * self.batch_size

    @property
    def samples(self) -> int:
        """Samples that the whole training trains on."""
        return self.epochs * self.samples_per_epoch

    def hours(self, *, step: float, validation: float) -> float:
        """Length of the whole training from the seconds of a step and of a validation batch."""
        return self.epochs * (self.iterations * step + self.val_iterations * validation) / 3600


@contextlib.contextmanager
def borrowed_trainer(
    name: str,
    *,
    plans: Mapping[str, Any],
    configuration: str,
    dataset: Mapping[str, Any],
    device: torch.device | None = None,
) -> Iterator[nnUNetTrainer]:
    """A trainer of all cases, from scratch, that leaves no trace: what it writes and prints is gone afterwards.

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
        }
        with _environment(changes):
            try:
                kind = recursive_find_trainer_class_by_name(name)
            except RuntimeError:
                raise InputError(
                    f"-tr {name} does not exist: name a trainer of this package or of nnU-Net, or add the folder of "
                    "yours to nnUNet_extTrainer"
                ) from None
            content = {**deepcopy(dict(plans)), "continue_training": False}
            yield kind(content, configuration, "all", dict(dataset), device or torch.device("cpu"))


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def count_training(trainer: nnUNetTrainer) -> Costs:
    """Counted costs of a step with one sample: of what the trainer trains, by its optimiser.

    Of the loss only what is part of the network counts, as it is in pre-training.
    """
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

    network = trainer.network = build_on(build)
    if isinstance(network, MaskedImageModelling):
        channels = network.view.in_channels
        # Which patches the published form transforms hangs on the content of the mask, and a tensor on the meta device
        # has none; the other form costs about the same.
        network.settings = replace(network.settings, legacy_frequency_loss=False)
    copies = NUMBERS_PER_PARAMETER[getattr(trainer, "optimizer_kind", "sgd")]
    return count_costs(network, (1, channels, *trainer.configuration_manager.patch_size), state_copies=copies)
