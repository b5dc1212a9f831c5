"""U-Net with a Swin encoder; plans files name it, and stock nnU-Net trainers train and predict with it too."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.networks.swin import SwinEncoder

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class SwinUNet(nn.Module):
    """Full-resolution convolutions, a Swin encoder, and a convolutional decoder with skip connections at every stage.

    Args:
        input_channels: channels of the images.
        num_classes: channels of the output (logits).
        strides: strides per stage and axis, as in nnU-Net's plans. The first entry is all ones (the full-resolution
            convolutions), the second is the token patch, the others are the merging before each further Swin stage.
        features_per_stage: channels of each stage, including the convolutional one.
        depths: blocks of each Swin stage.
        num_heads: heads of each Swin stage.
        window_size: tokens per axis of a window.
        mlp_ratio: width of the perceptrons, relative to the channels.
        drop_path_rate: stochastic depth of the last block.
        n_conv_per_stage_decoder: convolutions of each decoder stage: one number, or one per stage, deepest first.
        deep_supervision: return the outputs of all decoder stages, finest first, instead of only the finest.
        gradient_checkpointing: recompute the Swin blocks in the backward pass.
        legacy: attention as in BDFM's code, see `SwinEncoder`.

    Raises:
        ValueError: strides, features, depths and heads do not fit each other.

    Example:
        >>> network = SwinUNet(
        ...     4, 3, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> network(torch.zeros(1, 4, 32, 32, 32)).shape
        torch.Size([1, 3, 32, 32, 32])
    """

    # where nnU-Net's tools for pre-trained networks look
    key_to_encoder = "encoder"
    key_to_stem = "encoder.patch_embed"
    keys_to_in_proj = ("encoder.patch_embed", "stem.convs.0.0")
    key_to_lpe = None

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        strides: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: Sequence[int],
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        n_conv_per_stage_decoder: int | Sequence[int] = 1,
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        if len(strides) < 2 or any(step != 1 for step in strides[0]) or len(strides) != len(features_per_stage):
            raise ValueError(
                f"strides {strides} must start with ones and have one entry for each of the "
                f"{len(features_per_stage)} features_per_stage, at least two"
            )
        self.stem = ConvStage(input_channels, features_per_stage[0], 2, axes=len(strides[0]))
        self.encoder = SwinEncoder(
            input_channels,
            patch_size=strides[1],
            features=features_per_stage[1:],
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            merging=strides[2:],
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            gradient_checkpointing=gradient_checkpointing,
            legacy=legacy,
        )
        self.decoder = SkipDecoder(
            features_per_stage,
            strides[1:],
            num_classes,
            convs=n_conv_per_stage_decoder,
            deep_supervision=deep_supervision,
        )
        self.total_stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map (B, C, *spatial) to logits (B, classes, *spatial), or with deep supervision a list of them, finest first.

        Sizes that are not multiples of the network's total stride are padded with zeros; the outputs are cut back.
        """
        spatial = images.shape[2:]
        short = [(-size) % step for size, step in zip(spatial, self.total_stride, strict=True)]
        if any(short):
            images = functional.pad(images, [n for missing in reversed(short) for n in (0, missing)])
        outputs = self.decoder([self.stem(images), *self.encoder(images)])
        if any(short):
            full = images.shape[2:]
            outputs = [_cut(output, spatial, full) for output in outputs]
        return outputs if self.decoder.deep_supervision else outputs[0]


class ConvStage(nn.Module):
    """Convolutions of size 3, each followed by instance normalisation and leaky ReLU."""

    def __init__(self, in_channels: int, channels: int, convs: int, *, axes: int) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * convs
        self.convs = nn.ModuleList(
            nn.Sequential(
                _CONV[axes](inward, outward, 3, padding=1),
                _NORM[axes](outward, eps=1e-5, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
            )
            for inward, outward in pairwise(widths)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, channels, *spatial)."""
        for conv in self.convs:
            features = conv(features)
        return features


class SkipDecoder(nn.Module):
    """Transposed convolutions up to full resolution, joined with the encoder's features at each stage.

    Args:
        channels: channels of the encoder's features, finest first.
        strides: strides between neighbouring features, finest first; one less than `channels`.
        num_classes: channels of each output.
        convs: convolutions of each stage: one number, or one per stage, deepest first.
        deep_supervision: whether to compute all outputs or only the finest.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        num_classes: int,
        *,
        convs: int | Sequence[int],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        axes = len(strides[0])
        steps = len(strides)
        counts = [convs] * steps if isinstance(convs, int) else list(convs)
        if len(counts) != steps:
            raise ValueError(f"the decoder has {steps} stages, got n_conv_per_stage_decoder {convs}")
        self.deep_supervision = deep_supervision
        self.upsamplings, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for step, count in enumerate(counts):  # deepest first
            level = steps - 1 - step
            stride = tuple(strides[level])
            self.upsamplings.append(_CONV_TRANSPOSED[axes](channels[level + 1], channels[level], stride, stride))
            self.stages.append(ConvStage(2 * channels[level], channels[level], count, axes=axes))
            self.seg_layers.append(_CONV[axes](channels[level], num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features (B, C_i, *spatial_i), finest first, to logits, finest first: one, or one per stage."""
        outputs = []
        current = features[-1]
        last = len(self.stages) - 1
        for step, skip in enumerate(reversed(features[:-1])):
            current = self.stages[step](torch.cat([self.upsamplings[step](current), skip], dim=1))
            if self.deep_supervision or step == last:
                outputs.append(self.seg_layers[step](current))
        return outputs[::-1]


def _cut(output: Tensor, spatial: Sequence[int], full: Sequence[int]) -> Tensor:
    """Cut the padding off an output that is smaller than the padded image by a whole factor per axis."""
    sizes = [-(-size * have // total) for size, have, total in zip(spatial, output.shape[2:], full, strict=True)]
    return output[(slice(None), slice(None), *(slice(size) for size in sizes))]
