"""Pre-trained weights as a full nnU-Net checkpoint, for the stock trainer and its -pretrained_weights flag."""

from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.checkpoints import LoadReport, load_pretrained
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import channels_of, inputs_of, outputs_of, read_dataset_json, resolve_configuration
from bdfm_nnunet.plans.plans_lookup import (
    CONFIGURATION,
    DEFAULT_PLANS,
    plans_path,
    raw_folder,
    read_plans,
)
from bdfm_nnunet.settings import read_block

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
    plans = read_plans(dataset_id, plans_name)
    resolved = resolve_configuration(plans, configuration)
    preprocessed = plans_path(dataset_id, plans_name).parent / "dataset.json"
    dataset = read_dataset_json(preprocessed if preprocessed.is_file() else raw_folder(dataset_id) / "dataset.json")
    network = _network(resolved, dataset, str(plans_path(dataset_id, plans_name)))
    report = load_pretrained(
        network, path, channels=channels_of(dataset), **read_block(resolved, "finetuning").loading()
    )
    content = {
        "network_weights": network.state_dict(),
        "init_args": {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(len(resolved["patch_size"]))),
        "bdfm_source": {
            "path": str(report.path),
            "sha256": report.sha256,
            "encoder_share": report.encoder_share,
            "stem_share": report.stem_share,
        },
    }
    exposure = Exposure.of(report.exposure)
    if exposure.runs:
        content[EXPOSURE] = exposure.as_dict()
    write_checkpoint(content, out)
    return report


def _network(configuration: dict[str, Any], dataset: dict[str, Any], name: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build_network(
            configuration,
            inputs=inputs_of(dataset, configuration),
            outputs=outputs_of(dataset),
            deep_supervision=True,
            name=name,
        )
