"""Merging of neighbouring tokens between the stages of a Swin encoder (https://arxiv.org/abs/2103.14030).

Shapes: B batch, C channels, *grid tokens per axis, N visible tokens.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

MergingOrder = Literal["swin", "monai-1.4"]
_MONAI_1_4 = (0, 4, 2, 1, 5, 2, 1, 7)
"""The neighbours that MONAI up to 1.4 joins, numbered with the first axis fastest.

MONAI's axes are (x, y, z), those here (z, y, x): its 000 100 010 001 101 010 001 111 is read backwards.
"""


class PatchMerging(nn.Module):
    """Merging of neighbouring tokens, `stride` per axis, and their projection to `out_channels`.

    Args:
        channels: channels of a token.
        out_channels: channels of a merged token.
        stride: tokens per axis that are merged.
        order: "swin" joins all neighbours, first axis fastest; "monai-1.4" joins what MONAI up to 1.4 joins: of eight
            neighbours two twice and two never (https://github.com/Project-MONAI/MONAI/issues/4757).
    """

    def __init__(
        self, channels: int, out_channels: int, stride: Sequence[int], *, order: MergingOrder = "swin"
    ) -> None:
        super().__init__()
        self.stride = tuple(stride)
        if order not in get_args(MergingOrder):
            raise ValueError(f"merging_order is {order!r}, expected {' or '.join(map(repr, get_args(MergingOrder)))}")
        if order != "swin" and self.stride != (2, 2, 2):
            raise ValueError(f"merging_order {order!r} is one of 2 x 2 x 2 neighbours, got strides of {self.stride}")
        self.merging_order = order
        joined = channels * math.prod(stride)
        self.norm = nn.LayerNorm(joined)
        self.reduction = nn.Linear(joined, out_channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, *grid, C) to (B, *smaller grid, out_channels); other grids are padded to multiples with zeros."""
        batch, *grid, channels = tokens.shape
        tokens = _pad_grid(tokens, [(-size) % step for size, step in zip(grid, self.stride, strict=True)])
        axes = len(grid)
        split = [n for size, step in zip(tokens.shape[1:-1], self.stride, strict=True) for n in (size // step, step)]
        # the first axis varies fastest among the joined neighbours, as in the published Swin transformers
        neighbours = range(2 * axes, 0, -2)
        tokens = tokens.reshape(batch, *split, channels).permute(0, *range(1, 2 * axes, 2), *neighbours, -1)
        return self.reduction(self.norm(self._chosen(tokens.flatten(1 + axes), channels)))

    def merge_visible(self, tokens: Tensor) -> Tensor:
        """Map the visible tokens of a stage, (B, N, C), to those of the next one."""
        channels = tokens.shape[-1]
        joined = tokens.reshape(len(tokens), -1, math.prod(self.stride) * channels)
        return self.reduction(self.norm(self._chosen(joined, channels)))

    def _chosen(self, joined: Tensor, channels: int) -> Tensor:
        """Return the neighbours that the order has, (..., 8 C), from all of them, first axis fastest."""
        if self.merging_order == "swin":
            return joined
        return joined.unflatten(-1, (-1, channels))[..., _MONAI_1_4, :].flatten(-2)


def _pad_grid(tokens: Tensor, missing: Sequence[int]) -> Tensor:
    if not any(missing):
        return tokens
    return functional.pad(tokens, [0, 0, *(n for short in reversed(missing) for n in (0, short))])
