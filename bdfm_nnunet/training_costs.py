"""Costs of a training with our trainers, from the plans alone; PyTorch is imported only for costs not yet recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.cost_records import Costs, Schedule, remembered
from bdfm_nnunet.nnunet_files import inputs_of, outputs_of
from bdfm_nnunet.presets import POOLING, PRETRAINERS, REIDENTIFICATION_TRAINER, SUBJECT_TRAINERS, TRAINER_PRESETS
from bdfm_nnunet.settings import (
    CropSettings,
    SubjectSettings,
    TrainingSettings,
    check_blocks,
    pretraining_settings,
    read_block,
)

if TYPE_CHECKING:
    from torch import nn

FINETUNINGS = ("nnUNetTrainerBDFM",)
"""Trainers of the network with its decoder."""
DEFAULT_EPOCHS = 1000
SUBJECT_EPOCHS = 40
"""Epochs of a subject-level training whose plans name no number."""
NUMBERS_PER_PARAMETER = {"adamw": 4, "sgd": 3, "lars": 3}
"""What an optimiser keeps, weight and gradient included."""
OF_SUBJECTS = (*SUBJECT_TRAINERS, REIDENTIFICATION_TRAINER)
"""Trainers whose networks have one vector of outputs for each subject."""
_WITHOUT_COSTS = {"training", "pretraining", "finetuning", "costs", "variant_settings", "inherits_from", "batch_size"}
"""Entries of a configuration from which the costs of a sample do not follow, or not directly."""


def count_by_name(
    trainer: str, configuration: Mapping[str, Any], dataset: Mapping[str, Any], *, plans: Path
) -> tuple[Costs, Schedule]:
    """Count the costs of a step of one sample with a trainer of this package, and the number of steps.

    A sample of a subject-level trainer is counted as one crop; how many show a case depends on the images.

    Args:
        trainer: a trainer in `PRETRAINERS`, `FINETUNINGS` or `OF_SUBJECTS`.
        configuration: configuration of the plans with everything that it inherits.
        dataset: content of dataset.json.
        plans: plans file; counted costs are recorded beside it.

    Raises:
        InputError: the configuration has settings that the trainer refuses, or does not describe a network.
    """
    check_blocks(configuration)
    training: TrainingSettings = read_block(configuration, "training")
    settings: CropSettings | None = None
    if trainer in PRETRAINERS:
        settings = pretraining_settings(configuration, TRAINER_PRESETS.get(trainer))
    inputs, outputs = inputs_of(dataset, configuration), outputs_of(dataset)
    what = {
        "configuration": {key: value for key, value in configuration.items() if key not in _WITHOUT_COSTS},
        "channels": [inputs, outputs],
        "pretraining": settings and asdict(settings),
        "optimizer": training.optimizer,
        **({"subjects": trainer} if trainer in OF_SUBJECTS else {}),
    }

    def count() -> Costs:
        from bdfm_nnunet.networks.encoders import suited_optimizer

        if trainer in OF_SUBJECTS:
            network = _subject_network(trainer, configuration, inputs, str(plans))
        else:
            network = _network(configuration, inputs, outputs, settings, str(plans), TRAINER_PRESETS.get(trainer))
        optimizer = suited_optimizer(network) if training.optimizer == "auto" else training.optimizer
        return count_step(network, inputs, configuration["patch_size"], optimizer=optimizer)

    schedule = Schedule(
        epochs=training.epochs or (SUBJECT_EPOCHS if trainer in OF_SUBJECTS else DEFAULT_EPOCHS),
        iterations=training.iterations_per_epoch,
        val_iterations=training.val_iterations_per_epoch,
        batch_size=configuration["batch_size"],
    )
    return remembered(plans.parent, what, count), schedule


def _network(
    configuration: Mapping[str, Any],
    inputs: int,
    outputs: int,
    settings: CropSettings | None,
    name: str,
    preset: str | None,
) -> "nn.Module":
    from bdfm_nnunet.networks.encoders import encoder_of
    from bdfm_nnunet.networks.network_building import build_network
    from bdfm_nnunet.networks.network_costs import build_on
    from bdfm_nnunet.objectives.registry import objective_of

    def build() -> "nn.Module":
        network = build_network(
            configuration,
            inputs=1 if settings and settings.channels == "single" else inputs,
            outputs=outputs,
            deep_supervision=settings is None,
            initialise=False,
            name=name,
        )
        if settings is None:
            return network
        return objective_of(preset)(encoder_of(network), settings, spacing=configuration.get("spacing"))

    return build_on(build)


def _subject_network(trainer: str, configuration: Mapping[str, Any], inputs: int, name: str) -> "nn.Module":
    from bdfm_nnunet.networks.network_costs import build_on
    from bdfm_nnunet.networks.subject_network import AXES_OF_RUNS, OneCrop, build_subject_network

    settings: SubjectSettings = read_block(configuration, "finetuning", kind=SubjectSettings)
    auto = "mean" if len(configuration["patch_size"]) == AXES_OF_RUNS else POOLING.get(trainer, "mean")
    options: Any = {"pooling": settings.pooling if settings.pooling != "auto" else auto, "head": settings.head}

    def build() -> "nn.Module":
        return OneCrop(build_subject_network(configuration, inputs=inputs, outputs=1, **options, name=name))

    return build_on(build)


def count_step(network: "nn.Module", channels: int, patch_size: Sequence[int], *, optimizer: str) -> Costs:
    """Count the costs of a step of one sample.

    The loss counts only if it is part of the network, as in pre-training.

    Args:
        network: network on the meta device.
        channels: channels of the images; an objective has as many as it was made for.
        patch_size: voxels per axis.
        optimizer: "adamw", "sgd" or "lars".
    """
    from torch import Generator

    from bdfm_nnunet.networks.network_costs import count_costs
    from bdfm_nnunet.objectives.base import Objective

    copies = NUMBERS_PER_PARAMETER[optimizer]
    if not isinstance(network, Objective):
        return count_costs(network, (1, channels, *patch_size), state_copies=copies)
    network.make_countable()
    crop = network.crop_size(patch_size, network.settings)
    drawn = network.draw(1, crop, generator=Generator().manual_seed(0))
    return count_costs(
        network, (1, network.view.in_channels * network.clips, *crop), state_copies=copies, arguments=drawn
    )
