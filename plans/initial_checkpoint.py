"""Pre-trained weights as a full nnU-Net checkpoint, for the stock trainer and its -pretrained_weights flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.checkpoints import LoadReport, load_pretrained
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import (
    channels_of,
    inputs_of,
    outputs_of,
    read_dataset_json,
    refuse_cascade,
    resolve_configuration,
)
from bdfm_nnunet.plans.plans_lookup import (
    CONFIGURATION,
    DEFAULT_PLANS,
    main_configuration,
    plans_path,
    raw_folder,
    read_plans,
)
from bdfm_nnunet.settings import finetuning_settings

SEED = 12345


def write_initial_checkpoint(
    path: str | Path,
    *,
    dataset_id: int,
    plans_name: str = DEFAULT_PLANS,
    configuration: str = CONFIGURATION,
    out: str | Path,
) -> LoadReport:
    """Build the network that the plans describe, load the weights into it and write it as a checkpoint.

    What the weights say nothing about (the decoder, usually) is initialised from a fixed seed.

    Args:
        path: the pre-trained checkpoint.
        dataset_id: number of the data set.
        plans_name: its plans.
        configuration: the configuration to train.
        out: the checkpoint to write, for `nnUNetv2_train -pretrained_weights`.

    Returns:
        What became of every tensor.

    Raises:
        InputError: the plans do not exist, the weights do not fit, or `out` cannot be written.
    """
    network, planned = network_of_plans(dataset_id, plans_name, configuration)
    axes = min(len(planned.configuration["patch_size"]), 3)  # time is not mirrored
    settings = finetuning_settings(planned.configuration)
    report = load_pretrained(network, path, channels=channels_of(planned.dataset), **settings.loading())
    content: dict[str, Any] = {
        "network_weights": network.state_dict(),
        "init_args": {
            "plans": planned.plans,
            "configuration": planned.name,
            "fold": 0,
            "dataset_json": planned.dataset,
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(axes)),
        "bdfm_source": {
            "path": str(report.path),
            "sha256": report.sha256,
            "encoder_share": report.encoder_share,
            "stem_share": report.stem_share,
        },
    }
    if report.licence:
        content["licence"] = report.licence
    if report.citations:
        content["citations"] = list(report.citations)
    exposure = Exposure.of(report.exposure)
    if exposure.runs:
        content[EXPOSURE] = exposure.as_dict()
    write_checkpoint(content, out)
    return report


@dataclass(frozen=True)
class Planned:
    """What a network is planned from.

    Attributes:
        plans: the content of the plans file.
        name: of its configuration.
        configuration: its content, with everything that it inherits.
        dataset: the content of dataset.json.
    """

    plans: dict[str, Any]
    name: str
    configuration: dict[str, Any]
    dataset: dict[str, Any]


def network_of_plans(dataset_id: int, plans_name: str, configuration: str) -> tuple[torch.nn.Module, Planned]:
    """Build the network that plans describe, with weights from a fixed seed.

    Plans of 4-D runs have no `3d_fullres`: their own configuration takes its place.

    Raises:
        InputError: the plans do not exist, or the configuration is the second stage of a cascade.
    """
    plans, path = read_plans(dataset_id, plans_name), plans_path(dataset_id, plans_name)
    configuration = main_configuration(plans) if configuration == CONFIGURATION else configuration
    resolved = resolve_configuration(plans, configuration)
    refuse_cascade(resolved, f"configuration {configuration} of {path}")
    preprocessed = path.parent / "dataset.json"
    dataset = read_dataset_json(preprocessed if preprocessed.is_file() else raw_folder(dataset_id) / "dataset.json")
    inputs, outputs = inputs_of(dataset, resolved), outputs_of(dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build_network(resolved, inputs=inputs, outputs=outputs, deep_supervision=True, name=str(path))
    return network, Planned(plans, configuration, resolved, dataset)
