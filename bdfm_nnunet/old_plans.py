"""The architecture in nnU-Net's first plans, which describe it by a handful of entries instead of "architecture"."""

from collections.abc import Mapping
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of

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
