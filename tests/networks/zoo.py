"""Small networks of every supported kind."""

from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from bdfm_nnunet.networks import ResNet18UNet, SwinUNet

NETWORKS = ("swin", "resenc", "plain", "resnet18")
PRIMUS = ("primus", "primus_v2", "primus_v3")

_CONV: dict[str, Any] = {
    "n_stages": 4,
    "features_per_stage": [8, 16, 24, 32],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "n_conv_per_stage_decoder": [1, 1, 1],
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
_SWIN: dict[str, Any] = {
    "strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]],
    "features_per_stage": [8, 16, 32],
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4, 4],
}
_RESNET18: dict[str, Any] = {"features_per_stage": [4, 4, 8, 16, 32], "decoder_features": [4, 4, 8, 8]}
_PRIMUS: dict[str, Any] = {"input_shape": [32, 32, 32], "embed_dim": 24, "eva_depth": 2, "eva_numheads": 2}


def network(kind: str, channels: int, classes: int = 3, **changes: Any) -> Any:
    """A network with that many input channels and classes."""
    if kind == "swin":
        return SwinUNet(channels, classes, **(_SWIN | changes))
    if kind == "resnet18":
        return ResNet18UNet(channels, classes, **(_RESNET18 | changes))
    if kind.startswith("primus"):
        from bdfm_nnunet.networks.primus import PrimusNet  # which imports timm

        return PrimusNet(channels, classes, version=int(kind.partition("_v")[2] or 1), **(_PRIMUS | changes))
    if kind == "resenc":
        return ResidualEncoderUNet(channels, num_classes=classes, n_blocks_per_stage=[1, 1, 2, 2], **(_CONV | changes))
    return PlainConvUNet(channels, num_classes=classes, n_conv_per_stage=[2, 2, 2, 2], **(_CONV | changes))
