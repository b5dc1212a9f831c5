"""Pixel decoder for encoders that compute only what is visible.

Shapes: B batch, N visible tokens of a sample, T tokens of a grid, K blocks to rebuild of a sample, W width.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.masking import MaskToken, MaskTokenMode
from bdfm_nnunet.networks.visible_tokens import VisibleStage, VisibleTokens
from bdfm_nnunet.objectives.pixel_decoders import PyramidDecoder

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class VisibleDecoder(PyramidDecoder):
    """Pyramid decoder that fills hidden positions with a token at each scale, and lets neighbours see each other.

    An encoder of visible tokens says nothing about hidden positions, and the pyramid decoder reads one position at a
    time. A convolution of size 3 with a shortcut at each scale therefore carries what is visible to what is hidden, as
    in SparK (Tian et al. 2023, https://arxiv.org/abs/2301.03580). All scales but the finest are computed on the whole
    grid, which is small; the convolution of the finest and the expansion to voxels only for the blocks asked for, with
    their neighbouring tokens, so a block does not depend on which others are rebuilt.

    Args:
        channels: channels of the features, finest first.
        strides: stride of each feature in voxels per axis.
        hidden: channels of the joined features.
        out_channels: channels of the output.
        mask_token: how hidden positions are filled, see `MaskToken`; each scale has a separate token.
        noise: noise of the tokens' start, see `MaskToken`.
        block: voxels per axis of a block, a multiple of the last stride.

    Example:
        >>> decoder = VisibleDecoder(
        ...     (8, 16), ((4, 4, 4), (8, 8, 8)), 8, 1, mask_token="learned", noise=0.0, block=(8, 8, 8)
        ... )
        >>> len(decoder.mask_tokens), decoder.block
        (2, (2, 2, 2))
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        hidden: int,
        out_channels: int,
        *,
        mask_token: MaskTokenMode,
        noise: float,
        block: Sequence[int],
    ) -> None:
        super().__init__(channels, strides, hidden, out_channels)
        used = range(self.finest, len(channels))
        self.mask_tokens = nn.ModuleList(MaskToken(channels[i], mask_token, noise=noise) for i in used)
        self.mixes = nn.ModuleList(_CONV[len(block)](hidden, hidden, 3, padding=1) for _ in used)
        self.block = tuple(size // step for size, step in zip(block, strides[self.finest], strict=True))

    def rebuild(self, features: Sequence[Tensor], where: VisibleTokens, blocks: Tensor) -> Tensor:
        """Rebuild blocks of the images.

        Args:
            features: features of the visible tokens, (B, N, C) per stage, finest first.
            where: their places.
            blocks: raster numbers of the blocks to rebuild, (B, K).

        Returns:
            (B * K, out_channels, *block).
        """
        joined: Tensor | None = None
        for level in reversed(range(1, len(self.laterals))):
            positions = self._join(level, features, where, joined).movedim(-1, 1)
            joined = positions + self.mixes[level](positions)
        finest = self._join(0, features, where, joined)
        mix = self.mixes[0]
        around = _crops(finest, blocks, self.block)
        inside = around[(slice(None), slice(None), *(slice(1, -1) for _ in self.block))]
        mixed = inside + _CONVOLVE[len(self.block)](around, mix.weight, mix.bias)
        voxels: Tensor = self.project(mixed)
        return voxels

    def _join(self, level: int, features: Sequence[Tensor], where: VisibleTokens, coarser: Tensor | None) -> Tensor:
        """Return the features of a level, (B, *grid, W): the encoder's, filled with the token, and the coarser ones."""
        rows, stage = features[self.finest + level], where.stages[self.finest + level]
        mask_token = self.mask_tokens[level]
        assert isinstance(mask_token, MaskToken)
        token = self.laterals[level](mask_token.for_visible(rows))
        positions = _filled(self.laterals[level](rows), stage, token)
        if coarser is not None:
            positions = positions + self.expands[level](coarser).movedim(1, -1)
        return functional.gelu(self.norms[level](positions))


def _filled(rows: Tensor, stage: VisibleStage, token: Tensor) -> Tensor:
    """Return features of a whole grid, (B, *grid, W), from those of its visible tokens, (B, N, W)."""
    batch, _, width = rows.shape
    positions = token.to(rows.dtype).expand(batch, stage.tokens, width).flatten(0, 1)
    return positions.index_copy(0, stage.flat, rows.flatten(0, 1)).reshape(batch, *stage.grid, width)


def _crops(features: Tensor, blocks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cut blocks with one more position on every side, zeros outside the grid: (B * K, W, *(size + 2))."""
    batch, *grid, width = features.shape
    count = math.prod(grid)
    rows = functional.pad(features.reshape(-1, width), (0, 0, 0, 1))
    numbers = _numbers_around(tuple(grid), size, features.device)
    numbers = numbers.index_select(0, blocks.flatten()).unflatten(0, blocks.shape)
    starts = torch.arange(batch, device=features.device)[:, None, None] * count
    numbers = torch.where(numbers < count, numbers + starts, batch * count)
    crops = rows.index_select(0, numbers.flatten()).reshape(blocks.numel(), *(n + 2 for n in size), width)
    return crops.movedim(-1, 1)


@kept(maxsize=16)
def _numbers_around(grid: tuple[int, ...], size: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the raster numbers of the positions of each block and around it, (blocks, positions); outside, the count.

    Blocks are in raster order.
    """
    count = math.prod(grid)
    places = torch.full([n + 2 for n in grid], count)
    places[tuple(slice(1, -1) for _ in grid)] = torch.arange(count).reshape(grid)
    starts = product(*(range(0, n, step) for n, step in zip(grid, size, strict=True)))
    crops = [places[tuple(slice(s, s + n + 2) for s, n in zip(start, size, strict=True))].flatten() for start in starts]
    return torch.stack(crops).to(device)
