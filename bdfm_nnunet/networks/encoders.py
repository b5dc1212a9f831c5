"""A common view of the encoders of planned networks: their features, strides and masking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.masking import MaskToken, upsample
from bdfm_nnunet.networks.swin import SwinEncoder


@dataclass(frozen=True)
class EncoderView:
    """An encoder and its geometry; the module and the names of its parameters are unchanged.

    Attributes:
        module: module that maps images (B, C, *spatial) to a list of features, finest first.
        in_channels: channels of the images.
        channels: channels of each feature.
        strides: stride of each feature in image voxels per axis.
    """

    module: nn.Module
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def is_transformer(self) -> bool:
        """Whether tokens are masked; otherwise voxels are."""
        return isinstance(self.module, SwinEncoder)

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.strides[0])

    @property
    def mask_channels(self) -> int:
        """Channels of the mask token: those of a token, or of the images."""
        return self.channels[0] if self.is_transformer else self.in_channels

    @property
    def token_patch(self) -> tuple[int, ...]:
        """Voxels per axis of the smallest patch that can be masked: a token, or 4 on axes that the network halves."""
        if self.is_transformer:
            return self.strides[0]
        return tuple(min(4, stride) for stride in self.strides[-1])

    def features(self, images: Tensor, mask: Tensor, token: MaskToken, *, patch_size: Sequence[int]) -> list[Tensor]:
        """Return the features of masked images.

        Args:
            images: (B, C, *spatial).
            mask: boolean (B, *grid), True = masked.
            token: replacement of masked tokens (transformer) or voxels (convolutional encoder).
            patch_size: voxels per axis of a patch of the mask.

        Returns:
            One tensor (B, C_i, *spatial_i) per stage, finest first.

        Raises:
            ValueError: a patch is not a whole number of tokens.
        """
        if not self.is_transformer:
            masked = token(images.movedim(1, -1), upsample(mask, patch_size)).movedim(-1, 1)
            return list(self.module(masked.contiguous()))
        if any(patch % step for patch, step in zip(patch_size, self.strides[0], strict=True)):
            raise ValueError(f"mask patches of {tuple(patch_size)} voxels are no whole tokens of {self.strides[0]}")
        factors = [patch // step for patch, step in zip(patch_size, self.strides[0], strict=True)]
        mask = upsample(mask, factors)
        return list(self.module(images, lambda tokens: token(tokens, mask)))


def encoder_of(network: nn.Module) -> EncoderView:
    """Return the encoder of a SwinUNet, ResNet18UNet, ResidualEncoderUNet or PlainConvUNet, wrapped or not.

    Raises:
        ValueError: the network has no encoder that states its channels and strides.
    """
    encoder = getattr(unwrap(network), "encoder", unwrap(network))
    channels, strides = getattr(encoder, "output_channels", None), getattr(encoder, "strides", None)
    if channels is None or strides is None:
        raise ValueError(
            f"{type(unwrap(network)).__name__} has no encoder with output_channels and strides: "
            "use SwinUNet, ResNet18UNet, ResidualEncoderUNet or PlainConvUNet"
        )
    totals = [tuple(math.prod(axis) for axis in zip(*strides[: i + 1], strict=True)) for i in range(len(strides))]
    first = next(parameter for parameter in encoder.parameters() if parameter.ndim > 2)
    return EncoderView(encoder, first.shape[1], tuple(channels), tuple(totals))


def unwrap(network: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's and DDP's wrappers."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif hasattr(network, "_orig_mod"):  # torch.compile's wrapper; importing its class takes a second
            network = cast(nn.Module, network._orig_mod)
        else:
            return network
