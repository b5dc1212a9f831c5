"""The plans that a pre-trained checkpoint was made with, checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.network_classes import check_network_classes
from bdfm_nnunet.nnunet_files import check_plans, refuse_cascade, resolve_configuration
from bdfm_nnunet.old_plans import architecture_of
from bdfm_nnunet.plans.memory_targets import configuration_costs
from bdfm_nnunet.plans.network_names import RUN_NETWORKS, primus_name

NETWORK_OF_CLASS = {
    "SwinUNet": "swin",
    "ResidualEncoderUNet": "resenc",
    "PlainConvUNet": "plain",
    "ResNet18UNet": "resnet18",
    "PrimusNet": "primus",
    "NeuroSTORM": "neurostorm",
}


@dataclass(frozen=True, kw_only=True)
class PretrainedPlans:
    """The plans that a checkpoint was trained with.

    Attributes:
        path: the checkpoint.
        sha256: of its bytes.
        network: name for `--network`.
        configuration: the configuration it was trained with, inheritance resolved.
        images: order of the axes, spacing and normalisation of the images it was trained on.
        reading: settings by which it was read.
    """

    path: Path
    sha256: str
    network: str
    configuration: dict[str, Any]
    images: ExpectedImages
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spacing(self) -> list[float]:
        """Target spacing in mm, in the axis order of the images as they are read."""
        return list(self.images.spacing)


def read_pretrained_plans(path: str | Path, network: str | None = None, **reading: Any) -> PretrainedPlans:
    """Read the plans from a checkpoint.

    Args:
        path: a checkpoint of our trainers, nnU-Net, nnssl or MONAI.
        network: the network asked for, if any was.
        reading: what the file cannot tell, see `ReadingSettings`.

    Raises:
        InputError: the checkpoint cannot be read, holds no plans, or is of another network than the one asked for.
    """
    path = Path(os.path.expanduser(path))
    checkpoint = read_checkpoint(path, **reading)
    if checkpoint.plans is None or checkpoint.configuration is None:
        raise InputError(
            f"{path} holds no plans, so no plans can match it: run `bdfm plan` without --weights and name the file in "
            f"the environment variable BDFM_WEIGHTS when you train",
            entry="weights-without-plans",
        )
    configuration = _checked(checkpoint)
    class_name = configuration.get("architecture", {}).get("network_class_name", "none").rsplit(".", 1)[-1]
    kind = NETWORK_OF_CLASS.get(class_name)
    if kind is None:
        raise InputError(f"{path} is of a network {class_name}, expected one of {', '.join(NETWORK_OF_CLASS)}")
    if kind == "primus":
        kind = primus_name(configuration["architecture"]["arch_kwargs"])
    if network is not None and network != kind:
        raise InputError(f"{path} is of a {kind} network, not {network}: leave --network out or choose other weights")
    axes = 4 if kind in RUN_NETWORKS else 3
    if len(configuration["patch_size"]) != axes or checkpoint.images is None:
        raise InputError(f"{path} is of a 2-D network: choose weights of a 3-D configuration")
    _check_network(configuration, f"the plans in {path}")
    return PretrainedPlans(
        path=checkpoint.path,
        sha256=checkpoint.sha256,
        network=kind,
        configuration=configuration,
        images=checkpoint.images,
        reading={name: value for name, value in reading.items() if value is not None},
    )


_NAMES = {"dataset_name": "unknown", "plans_name": "unknown"}
_PREPROCESSING = {
    "data_identifier": "unknown",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 1,
    **dict.fromkeys(
        ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"), "resample_data_or_seg_to_shape"
    ),
}


def _checked(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the configuration of a checkpoint, checked like the rest of its plans.

    What stands in for entries that other plans are made without is only there to be checked.
    """
    name = f"the plans in {checkpoint.path}"
    plans, chosen = checkpoint.plans, str(checkpoint.configuration)
    assert plans is not None
    if fault := fault_of(plans, {"configurations": {str: {"inherits_from?": (str, None)}}}):
        raise InputError(f"{name} cannot be used ({fault}): choose other weights, or plan without --weights")
    configuration = resolve_configuration(plans, chosen)
    if "UNet_class_name" in configuration and "architecture" not in configuration:  # nnU-Net's first plans
        configuration["architecture"] = architecture_of(configuration, name)
    alone = _PREPROCESSING | {key: value for key, value in configuration.items() if key != "inherits_from"}
    check_plans(_NAMES | plans | {"configurations": {"3d_fullres": alone}}, name)
    refuse_cascade(configuration, f"the network of {checkpoint.path}")
    return configuration


def _check_network(configuration: Mapping[str, Any], name: str) -> None:
    """Build the network without memory for it."""
    check_network_classes(configuration, name)
    try:
        configuration_costs(configuration, channels=1, classes=2)
    except Exception as error:  # networks check what they are given in their own ways, or not at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name} describe a network that cannot be built ({reason}): choose other weights") from None
