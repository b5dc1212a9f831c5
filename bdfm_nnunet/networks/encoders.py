"""A common view of the encoders of planned networks: their features, strides and masking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.masking import MaskToken, upsample
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.primus_encoder import PrimusEncoder
from bdfm_nnunet.networks.skip_decoder import ConvStage
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.networks.visible_tokens import VisibleTokens


@dataclass(frozen=True)
class EncoderView:
    """An encoder and its geometry; the module and the names of its parameters are unchanged.

    Attributes:
        module: module that maps images (B, C, *spatial) to a list of features, finest first.
        in_channels: channels of the images.
        channels: channels of each feature.
        strides: stride of each feature in image voxels per axis.
        stem: full-resolution convolutions beside the encoder, whose features are the network's finest skip; None if
            the network has none (convolutional encoders hold theirs).
        decoder: the network's decoder of the stem's and the encoder's features, with its segmentation heads as
            `seg_layers`; None if the network has no such decoder (a Primus).
    """

    module: nn.Module
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    stem: ConvStage | None = None
    decoder: nn.Module | None = None

    @property
    def is_transformer(self) -> bool:
        """Whether the encoder attends to tokens, or scans them; otherwise it convolves voxels."""
        return isinstance(self.module, (SwinEncoder, NeurostormEncoder, PrimusEncoder))

    @property
    def ends_with_norm(self) -> bool:
        """Whether the features of the last stage come out of a norm of their own, as those of most transformers."""
        return self.is_transformer and not isinstance(self.module, NeurostormEncoder)

    @property
    def masks_tokens(self) -> bool:
        """Whether tokens are masked; otherwise voxels are, as where an embedding of patches looks beyond a patch."""
        return isinstance(self.module, (SwinEncoder, NeurostormEncoder)) or getattr(self.module, "masks_tokens", False)

    @property
    def axes(self) -> int:
        """Number of axes of an image, in space and, where it has one, in time."""
        return len(self.strides[0])

    @property
    def mask_channels(self) -> int:
        """Channels of the mask token: those of a token, or of the images."""
        return self.channels[0] if self.masks_tokens else self.in_channels

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
            token: replacement of masked tokens or voxels, see `masks_tokens`.
            patch_size: voxels per axis of a patch of the mask.

        Returns:
            One tensor (B, C_i, *spatial_i) per stage, finest first.

        Raises:
            ValueError: a patch is not a whole number of tokens.
        """
        if not self.masks_tokens:
            if self.is_transformer:
                self._of_tokens(mask, patch_size)  # parts of a token cannot be hidden either
            masked = token(images.movedim(1, -1), upsample(mask, patch_size)).movedim(-1, 1)
            return list(self.module(masked.contiguous()))
        mask = self._of_tokens(mask, patch_size)
        return list(self.module(images, lambda tokens: token(tokens, mask)))

    def visible_features(
        self, images: Tensor, mask: Tensor, *, patch_size: Sequence[int]
    ) -> tuple[list[Tensor], VisibleTokens]:
        """Return the features of visible tokens, and their places; nothing is computed for hidden ones.

        Args:
            images: (B, C, *spatial).
            mask: boolean (B, *grid), True = masked; it is read on the CPU.
            patch_size: voxels per axis of a patch of the mask.

        Returns:
            One tensor (B, N_i, C_i) per stage, finest first, in the order of `VisibleTokens`.

        Raises:
            ValueError: the encoder has no tokens, or a position of its last stage is partly visible.
        """
        if not self.masks_tokens or isinstance(self.module, NeurostormEncoder):
            raise ValueError(
                f"{type(self.module).__name__} has no tokens that can be computed without the others: only a Swin "
                "encoder and a Primus of version 1 have"
            )
        where = VisibleTokens(~self._of_positions(mask.cpu(), patch_size), self._merging, images.device)
        return list(self.module(images, visible=where)), where

    @property
    def _merging(self) -> list[tuple[int, ...]]:
        """Positions per axis that become one from each stage to the next."""
        return [
            tuple(coarse // fine for coarse, fine in zip(second, first, strict=True))
            for first, second in pairwise(self.strides)
        ]

    def _of_positions(self, mask: Tensor, patch_size: Sequence[int]) -> Tensor:
        """Return which positions of the last stage a mask hides, each as a whole."""
        hidden = self._of_tokens(mask, patch_size)
        merged = [last // first for last, first in zip(self.strides[-1], self.strides[0], strict=True)]
        split = [n for size, step in zip(hidden.shape[1:], merged, strict=True) for n in (size // step, step)]
        hidden, inside = hidden.reshape(len(hidden), *split), tuple(range(2, 2 + 2 * self.axes, 2))
        if not torch.equal(whole := hidden.amin(inside), hidden.amax(inside)):
            raise ValueError(f"the mask hides parts of positions of {self.strides[-1]} voxels: mask whole ones")
        return whole

    def _of_tokens(self, mask: Tensor, patch_size: Sequence[int]) -> Tensor:
        """Return the mask of tokens."""
        if any(patch % step for patch, step in zip(patch_size, self.strides[0], strict=True)):
            raise ValueError(f"mask patches of {tuple(patch_size)} voxels are no whole tokens of {self.strides[0]}")
        return upsample(mask, [patch // step for patch, step in zip(patch_size, self.strides[0], strict=True)])


def encoder_of(network: nn.Module) -> EncoderView:
    """Return the encoder of a SwinUNet, ResNet18UNet, PrimusNet, ResidualEncoderUNet or PlainConvUNet, wrapped or not.

    A NeurostormEncoder, and a network with one, have a view too; the last of its axes is time.

    A Primus of dynamic-network-architectures, which has no module for its encoder, gets one that shares its modules.

    Raises:
        ValueError: the network has no encoder that states its channels and strides.
    """
    network = unwrap(network)
    encoder = PrimusEncoder.of(network) if _is_bare_primus(network) else getattr(network, "encoder", network)
    channels, strides = getattr(encoder, "output_channels", None), getattr(encoder, "strides", None)
    if channels is None or strides is None:
        raise ValueError(
            f"{type(network).__name__} has no encoder with output_channels and strides: "
            "use SwinUNet, ResNet18UNet, PrimusNet, ResidualEncoderUNet or PlainConvUNet"
        )
    totals = [tuple(math.prod(axis) for axis in zip(*strides[: i + 1], strict=True)) for i in range(len(strides))]
    stem = getattr(network, "stem", None)
    stem = stem if isinstance(stem, ConvStage) else None
    decoder = getattr(network, "decoder", None)
    return EncoderView(
        encoder,
        image_kernels(encoder)[0].shape[1],
        tuple(channels),
        tuple(totals),
        stem,
        decoder if hasattr(decoder, "seg_layers") else None,
    )


def image_kernels(part: nn.Module) -> list[nn.Parameter]:
    """Return the kernels of an encoder or a stem that read the images: their input channels are those of the images.

    Example:
        >>> [kernel.shape for kernel in image_kernels(nn.Sequential(nn.Conv3d(4, 8, 3), nn.Conv3d(8, 8, 3)))]
        [torch.Size([8, 4, 3, 3, 3])]
    """
    if isinstance(part, PrimusEncoder):
        return part.image_kernels()
    return [next(parameter for parameter in part.parameters() if parameter.ndim > 2)]


def _is_bare_primus(network: nn.Module) -> bool:
    """Tell a Primus by its parts: its library takes seconds to import."""
    return not isinstance(network, PrimusEncoder) and hasattr(network, "eva") and hasattr(network, "down_projection")


def suited_optimizer(network: nn.Module) -> Literal["adamw", "sgd"]:
    """Return the optimiser of a network whose plans name none: AdamW for transformers and where an objective asks."""
    asked = getattr(unwrap(network), "suits_adamw", False)
    return "adamw" if asked or encoder_of(network).is_transformer else "sgd"


def unwrap(network: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's and DDP's wrappers."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif hasattr(network, "_orig_mod"):  # torch.compile's wrapper; importing its class takes a second
            network = cast(nn.Module, network._orig_mod)
        else:
            return network
