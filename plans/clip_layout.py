"""The clips that NeuroSTORM reads of runs on one grid: image size, tokens, and how these are merged.

Everything here is plain integers; memory and width are the planner's business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN_MM = 12.0
"""Millimetres of a token along each axis, as published: 6 voxels of 2 mm."""
MOST_MERGES = 3
FEWEST_LAST = 2  # tokens per axis of the last stage, as published
MOST_PADDING = 1.25  # tokens that an axis may get, relative to those that hold it, so that it can be merged once more


@dataclass(frozen=True)
class ClipLayout:
    """Where the tokens of a clip lie.

    Attributes:
        image_size: voxels per axis of space.
        token: voxels of a token per axis of space.
        merges: for each stage after the first, how many tokens become one on each axis of space (1 or 2).
    """

    image_size: tuple[int, ...]
    token: tuple[int, ...]
    merges: tuple[tuple[int, ...], ...]

    @property
    def strides(self) -> list[list[int]]:
        """Strides of the stages as plans state them, time last: full resolution, token, then the merges."""
        return [[1] * (len(self.token) + 1), *([*stride, 1] for stride in (self.token, *self.merges))]


def clip_layout(shape: Sequence[int], spacing: Sequence[float]) -> ClipLayout:
    """Return the layout of clips that hold whole volumes, padded to whole tokens at each stage.

    Args:
        shape: voxels per axis of the runs.
        spacing: millimetres per voxel and axis.

    Example:
        >>> layout = clip_layout((91, 109, 91), (2.0, 2.0, 2.0))
        >>> layout.image_size, layout.merges
        ((96, 120, 96), ((2, 2, 2), (2, 2, 2), (2, 1, 2)))
    """
    token = tuple(min(max(round(TOKEN_MM / step), 1), size) for step, size in zip(spacing, shape))
    held = [math.ceil(size / step) for size, step in zip(shape, token)]
    merges = [_merges_of(tokens) for tokens in held]
    padded = [2**count * math.ceil(tokens / 2**count) for tokens, count in zip(held, merges)]
    return ClipLayout(
        image_size=tuple(tokens * step for tokens, step in zip(padded, token)),
        token=token,
        merges=tuple(tuple(2 if stage < count else 1 for count in merges) for stage in range(max(merges))),
    )


def _merges_of(tokens: int) -> int:
    """Return how often pairs of tokens of an axis are merged."""
    possible = [0]
    for count in range(1, MOST_MERGES + 1):
        last = math.ceil(tokens / 2**count)
        if last >= FEWEST_LAST and last * 2**count <= MOST_PADDING * tokens:
            possible.append(count)
    return possible[-1]
