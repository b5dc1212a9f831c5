"""Networks built from a configuration of the plans, as nnU-Net builds them but without importing nnU-Net.

nnU-Net takes ten seconds to import and calls whatever the plans name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.network_classes import check_network_classes, find_class

_UNETS = "dynamic_network_architectures.architectures.unet."
_BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_OLD = {
    "UNet_class_name": str,
    "UNet_base_num_features": int,
    "unet_max_num_features": int,
    "n_conv_per_stage_encoder": [int],
    "n_conv_per_stage_decoder": [int],
    "conv_kernel_sizes": [[int]],
    "pool_op_kernel_sizes": [[int]],
}
"""The shape of what stands for "architecture" in nnU-Net's first plans."""


def build_network(
    configuration: Mapping[str, Any],
    *,
    inputs: int,
    outputs: int,
    deep_supervision: bool,
    initialise: bool = True,
    name: str = "the plans file",
) -> nn.Module:
    """Build the network of a configuration.

    Args:
        configuration: configuration with everything that it inherits; the format of nnU-Net's first plans works too.
        inputs: channels of the images.
        outputs: channels of the output.
        deep_supervision: whether the network returns outputs at several resolutions, as in training.
        initialise: whether the network initialises its weights by its rule.
        name: name of the plans in messages.

    Raises:
        InputError: the plans name a class that is not a network, its settings are wrong, or this machine's memory
            cannot hold it.
    """
    architecture = architecture_of(configuration, name)
    check_network_classes({**configuration, "architecture": architecture}, name)
    settings = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if settings[key] is not None:
            settings[key] = find_class(settings[key], key, name)
    kind = find_class(architecture["network_class_name"], "network_class_name", name)
    settings |= {"input_channels": inputs, "num_classes": outputs, "deep_supervision": deep_supervision}
    if torch.get_default_device().type != "meta":
        _check_memory(kind, settings, name)
    network = _made(kind, settings, name)
    fill: Any = getattr(network, "initialize", None)
    if initialise and fill is not None:
        network.apply(fill)
    return network


def _made(kind: type[nn.Module], settings: Mapping[str, Any], name: str) -> nn.Module:
    try:
        return kind(**settings)
    except Exception as error:  # a class that gets settings of another one fails in any way
        if isinstance(error, RuntimeError) and torch.get_default_device().type == "meta":
            raise  # its constructor reads values, which tensors without content do not have
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name} describes a {kind.__name__} that cannot be built ({reason}): correct its arch_kwargs, or plan "
            "with `bdfm plan`"
        ) from error


def _check_memory(kind: type[nn.Module], settings: Mapping[str, Any], name: str) -> None:
    """Refuse a network that is too large, by building it on the meta device, which takes no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            network = _made(kind, settings, name)
        except RuntimeError:
            return
    needed = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if needed > memory_bytes():
        raise InputError(
            f"{name} describes a {kind.__name__} of {needed / 2**30:.0f} GB, more than this machine has memory: check "
            "its features_per_stage"
        )


def architecture_of(configuration: Mapping[str, Any], name: str = "the plans file") -> dict[str, Any]:
    """Return the "architecture" entry of a configuration; for nnU-Net's first plans, make it from their entries.

    Raises:
        InputError: the configuration has neither.
    """
    if "architecture" in configuration:
        return dict(configuration["architecture"])
    kind = configuration.get("UNet_class_name")
    if (fault := fault_of(configuration, _OLD)) or kind not in _BLOCKS:
        raise InputError(
            f"{name} describes no network ({fault or f'UNet_class_name is {kind!r}'}): plan the data set again with "
            "`bdfm plan`"
        )
    axes, stages = len(configuration["patch_size"]), len(configuration["n_conv_per_stage_encoder"])
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "network_class_name": f"{_UNETS}{kind}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            _BLOCKS[kind]: configuration["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
