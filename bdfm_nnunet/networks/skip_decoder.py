"""Convolutional decoder with skip connections, and what networks that use it have in common."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ConvStage(nn.Module):
    """Convolutions of size 3, each followed by instance normalisation and leaky ReLU."""

    def __init__(self, in_channels: int, channels: int, convs: int, *, axes: int) -> None:
        super().__init__()
        self.channels = channels
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
        widths: channels of each decoder stage, finest first; by default those of the features it is joined with.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        num_classes: int,
        *,
        convs: int | Sequence[int],
        deep_supervision: bool,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        axes = len(strides[0])
        steps = len(strides)
        widths = list(channels[:-1] if widths is None else widths)
        counts = [convs] * steps if isinstance(convs, int) else list(convs)
        if len(counts) != steps:
            raise ValueError(f"the decoder has {steps} stages, got n_conv_per_stage_decoder {convs}")
        if len(widths) != steps:
            raise ValueError(f"the decoder has {steps} stages, got {len(widths)} widths: {widths}")
        incoming = [*widths[1:], channels[-1]]
        self.deep_supervision = deep_supervision
        self.upsamplings, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for step, count in enumerate(counts):  # deepest first
            level = steps - 1 - step
            stride = tuple(strides[level])
            width = widths[level]
            self.upsamplings.append(_CONV_TRANSPOSED[axes](incoming[level], width, stride, stride))
            self.stages.append(ConvStage(width + channels[level], width, count, axes=axes))
            self.seg_layers.append(_CONV[axes](width, num_classes, 1))

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


def on_padded(images: Tensor, multiple: Sequence[int], run: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    """Run a network on images padded with zeros to multiples of its total stride, and cut its outputs back.

    Args:
        images: (B, C, *spatial).
        multiple: total stride of the network, voxels per axis.
        run: maps padded images to outputs that are smaller by a whole factor per axis.
    """
    spatial = images.shape[2:]
    short = [(-size) % step for size, step in zip(spatial, multiple, strict=True)]
    if not any(short):
        return run(images)
    padded = functional.pad(images, [n for missing in reversed(short) for n in (0, missing)])
    return [_cut(output, spatial, padded.shape[2:]) for output in run(padded)]


def _cut(output: Tensor, spatial: Sequence[int], full: Sequence[int]) -> Tensor:
    """Cut the padding off an output that is smaller than the padded image by a whole factor per axis."""
    sizes = [-(-size * have // total) for size, have, total in zip(spatial, output.shape[2:], full, strict=True)]
    return output[(slice(None), slice(None), *(slice(size) for size in sizes))]
