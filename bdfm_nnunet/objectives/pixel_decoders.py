"""Decoders from an encoder's features to voxels, light on purpose, so that the encoder learns."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.frequency import unpatchify

# the last layer starts near zero, so the first reconstruction is flat instead of noise
_QUIET = 0.02


class Expand(nn.Module):
    """An expansion of each position to a patch: a transposed convolution with stride = kernel, in any number of axes.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the patches.
        stride: voxels per axis of a patch.
        std: of the first weights; by default what keeps the variance.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Sequence[int], *, std: float | None = None) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, *stride))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.trunc_normal_(self.weight, std=in_channels**-0.5 if std is None else std)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C_in, *grid) to (B, C_out, *grid times stride)."""
        batch, _, *grid = features.shape
        patches = functional.linear(features.movedim(1, -1), self.weight.flatten(1).T)
        voxels = unpatchify(patches.reshape(batch, -1, self.weight.shape[1], *self.stride), grid)
        return voxels + self.bias.reshape(-1, *(1,) * len(grid))


class FinalDecoder(nn.Module):
    """The published pixel decoder: two expansions from the encoder's last features.

    Args:
        channels: of the last features.
        stride: voxels per axis between their neighbours.
        hidden: channels between the two expansions.
        out_channels: channels of the result.
    """

    def __init__(self, channels: int, stride: Sequence[int], hidden: int, out_channels: int) -> None:
        super().__init__()
        first = [math.gcd(step, 8) for step in stride]
        self.expand = Expand(channels, hidden, first)
        self.project = Expand(
            hidden, out_channels, [step // part for step, part in zip(stride, first, strict=True)], std=_QUIET
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features, finest first, to (B, out_channels, *spatial)."""
        return self.project(self.expand(features[-1]))


class PyramidDecoder(nn.Module):
    """A decoder that joins the features of all stages from the coarsest up, then expands to voxels.

    Stages finer than 32 voxels a position take no part (convolutional encoders have them): at full
    resolution a decoder would cost more than the encoder.

    Args:
        channels: of the features, finest first.
        strides: voxels per axis between neighbours of each feature.
        hidden: channels of the joined features.
        out_channels: channels of the result.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Sequence[int]], hidden: int, out_channels: int
    ) -> None:
        super().__init__()
        volumes = [math.prod(stride) for stride in strides]
        self.finest = next((i for i, volume in enumerate(volumes) if volume >= 32), len(volumes) - 1)
        used = range(self.finest, len(channels))
        self.laterals = nn.ModuleList(nn.Linear(channels[i], hidden) for i in used)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in used)
        self.expands = nn.ModuleList(
            Expand(hidden, hidden, [coarse // fine for coarse, fine in zip(strides[i + 1], strides[i], strict=True)])
            for i in used[:-1]
        )
        self.project = Expand(hidden, out_channels, strides[self.finest], std=_QUIET)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features (B, C_i, *spatial_i), finest first, to (B, out_channels, *spatial)."""
        joined: Tensor | None = None
        for level in reversed(range(len(self.laterals))):
            lateral = self.laterals[level](features[self.finest + level].movedim(1, -1))
            if joined is not None:
                lateral = lateral + self.expands[level](joined).movedim(1, -1)
            joined = functional.gelu(self.norms[level](lateral)).movedim(-1, 1)
        assert joined is not None
        return self.project(joined)
