"""Patch sizes for a Swin encoder: token patch, merging strides and windows that divide every stage's token grid.

A layout never needs padding: in each stage, on each axis, the number of tokens is a multiple of the window or not
larger than it. Everything here is plain integers; memory and width are the planner's business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

MAX_STAGES = 4
WINDOWS = range(8, 3, -1)  # tokens per axis, the preferred one first
MIN_MERGED_TOKENS = 3  # an axis with fewer tokens after merging is left as it is
MIN_TOKENS = 4  # the smallest patch, where the image has as much
FINE_ENOUGH = 6  # tokens per axis at which the deepest stage needs no further merging
COARSE_AXIS = 2.0  # spacing ratio from which an axis is merged later, as nnU-Net pools it later


@dataclass(frozen=True)
class SwinLayout:
    """Where the tokens of a Swin encoder lie on an image patch.

    Attributes:
        patch_size: voxels per axis.
        token_patch: voxels per token and axis in the first stage.
        merges: for each transition between stages, how many tokens become one on each axis (1 or 2).
        window: tokens per axis of an attention window; a stage with fewer tokens uses them all.
    """

    patch_size: tuple[int, ...]
    token_patch: tuple[int, ...]
    merges: tuple[tuple[int, ...], ...]
    window: tuple[int, ...]

    @cached_property
    def voxels(self) -> int:
        """Voxels of the patch."""
        return math.prod(self.patch_size)

    @cached_property
    def strides(self) -> list[list[int]]:
        """Strides of the stages as plans state them: full resolution, token patch, then the merges."""
        return [[1] * len(self.patch_size), list(self.token_patch), *(list(stride) for stride in self.merges)]


@dataclass(frozen=True)
class _AxisOption:
    tokens: int
    window: int
    merges: int


def token_patch_for(spacing: Sequence[float]) -> tuple[int, ...]:
    """Return voxels per token and axis: 4 on fine axes, 2 where the spacing is twice the finest, 1 at four times."""
    finest = min(spacing)
    return tuple(4 if value < 2 * finest else 2 if value < 4 * finest else 1 for value in spacing)


def layouts_for(spacing: Sequence[float], median_shape: Sequence[float]) -> list[SwinLayout]:
    """Return all patch sizes worth considering for a data set, from the smallest to the largest, each inside the next.

    The patch grows as a cube in space, one axis at a time and the longest axis first, until it reaches the median
    image. An axis with fewer voxels than the smallest patch is rounded up to whole tokens.

    Args:
        spacing: millimetres per voxel and axis.
        median_shape: voxels per axis of the median image at that spacing.
    """
    token_patch = token_patch_for(spacing)
    ideal = _count_merges(_merges(spacing, token_patch, [MAX_STAGES] * len(spacing)), len(spacing))
    options = [
        _axis_options(math.floor(size / patch), math.ceil(size / patch), merges)
        for size, patch, merges in zip(median_shape, token_patch, ideal)
    ]
    chosen = [axis_options[0] for axis_options in options]
    steps = [
        (option.tokens * token_patch[axis] * spacing[axis], -median_shape[axis] * spacing[axis], axis, option)
        for axis, axis_options in enumerate(options)
        for option in axis_options[1:]
    ]
    layouts = [_layout(spacing, token_patch, chosen)]
    for _, _, axis, option in sorted(steps, key=lambda step: step[:3]):
        chosen[axis] = option
        layouts.append(_layout(spacing, token_patch, chosen))
    return layouts


def fits_grid(size: int, steps: Sequence[int], window: int | None) -> bool:
    """Return whether one axis of a patch needs no padding in any stage.

    Args:
        size: voxels on the axis.
        steps: strides of the stages on that axis; the first is the full resolution.
        window: window on that axis, or None for a network without windows.
    """
    for step in steps:
        if size % step:
            return False
        size //= step
    if window is None:
        return True
    tokens = size * math.prod(steps[2:])
    for step in (1, *steps[2:]):
        tokens //= step
        if tokens > window and tokens % window:
            return False
    return True


def _layout(spacing: Sequence[float], token_patch: tuple[int, ...], options: Sequence[_AxisOption]) -> SwinLayout:
    return SwinLayout(
        patch_size=tuple(option.tokens * patch for option, patch in zip(options, token_patch)),
        token_patch=token_patch,
        merges=_merges(spacing, token_patch, [option.merges for option in options]),
        window=tuple(option.window for option in options),
    )


def _axis_options(most: int, least: int, ideal_merges: int) -> list[_AxisOption]:
    """Return token counts for one axis, rising, of at most `most` tokens, or `least` tokens if none is left."""
    options = [_best_window(tokens, ideal_merges) for tokens in range(MIN_TOKENS, most + 1)]
    usable = [option for option in options if option is not None]
    return usable or [_AxisOption(tokens=least, window=max(least, min(WINDOWS)), merges=0)]


def _best_window(tokens: int, ideal_merges: int) -> _AxisOption | None:
    """Return the window that lets the axis be merged most often, the larger of equals; None if that is not enough."""
    windows = [window for window in WINDOWS if window <= max(tokens, min(WINDOWS)) and tokens % window == 0]
    options = [_AxisOption(tokens, window, min(_possible_merges(tokens, window), ideal_merges)) for window in windows]
    if not options:
        return None
    best = max(options, key=lambda option: (option.merges, option.window))
    deepest = tokens // 2**best.merges
    return best if best.merges == ideal_merges or deepest <= FINE_ENOUGH else None


def _possible_merges(tokens: int, window: int) -> int:
    merges = 0
    while tokens % 2 == 0 and tokens // 2 >= MIN_MERGED_TOKENS and (tokens // 2 % window == 0 or tokens // 2 < window):
        tokens //= 2
        merges += 1
    return merges


def _merges(
    spacing: Sequence[float], token_patch: Sequence[int], allowed: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return the merging strides between the stages: coarse axes wait until the fine ones have caught up."""
    size = [value * patch for value, patch in zip(spacing, token_patch)]
    left = list(allowed)
    merges: list[tuple[int, ...]] = []
    while len(merges) < MAX_STAGES - 1 and any(left):
        finest = min(value for value, more in zip(size, left) if more)
        stride = tuple(2 if more and value < COARSE_AXIS * finest else 1 for value, more in zip(size, left))
        size = [value * step for value, step in zip(size, stride)]
        left = [more - (step == 2) for more, step in zip(left, stride)]
        merges.append(stride)
    return tuple(merges)


def _count_merges(merges: Sequence[Sequence[int]], axes: int) -> list[int]:
    return [sum(stride[axis] == 2 for stride in merges) for axis in range(axes)]
