"""Checkpoints of the small networks with the plans that describe them."""

from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from tests.networks import zoo

_NAMES = {
    "swin": "bdfm_nnunet.networks.swin_unet.SwinUNet",
    "resnet18": "bdfm_nnunet.networks.resnet_unet.ResNet18UNet",
    "resenc": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "plain": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
}
_BLOCKS: dict[str, dict[str, Any]] = {
    "resenc": {"n_blocks_per_stage": [1, 1, 2, 2]},
    "plain": {"n_conv_per_stage": [2, 2, 2, 2]},
}


def network_of(kind: str, channels: int, **changes: Any) -> Any:
    """Like `zoo.network`, with numbers of blocks too."""
    if kind not in _BLOCKS:
        return zoo.network(kind, channels, **changes)
    build = {"resenc": ResidualEncoderUNet, "plain": PlainConvUNet}[kind]
    return build(channels, num_classes=3, **(zoo._CONV | _BLOCKS[kind] | changes))


def configuration_of(kind: str, **changes: Any) -> dict[str, Any]:
    """A configuration of the plans that gives `zoo.network(kind, ..., **changes)`."""
    base = {"swin": zoo._SWIN, "resnet18": zoo._RESNET18}.get(kind, zoo._CONV | _BLOCKS.get(kind, {}))
    settings = base | changes
    classes = [key for key, value in settings.items() if isinstance(value, type)]
    named = {key: f"torch.nn.{settings[key].__name__}" for key in classes}
    return {
        "patch_size": [32, 32, 32],
        "spacing": [1.0, 1.0, 1.0],
        "batch_size": 2,
        "data_identifier": "nnUNetPlans_3d_fullres",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": _NAMES[kind],
            "arch_kwargs": settings | named,
            "_kw_requires_import": classes,
        },
    }


def checkpoint_of_network(
    path: Path, kind: str, channels: int, *, plans: bool = True, dataset: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Save a network with random weights as nnU-Net does."""
    torch.manual_seed(1)
    content: dict[str, Any] = {"network_weights": network_of(kind, channels, **changes).state_dict()}
    if plans:
        described = {
            "dataset_name": "Dataset900_Made",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {"3d_fullres": configuration_of(kind, **changes)},
        }
        content["init_args"] = {"plans": described, "configuration": "3d_fullres", "dataset_json": dataset or {}}
    torch.save(content, path)
    return path
