"""Fitting what a transformer knows of its tokens to another network: absolute positions and merging."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Positions = Literal["resample", "extend"]


def adapt_positions(
    table: Tensor, old_grid: Sequence[int], grid: Sequence[int], *, how: Positions = "resample"
) -> Tensor:
    """Change the grid of learned absolute positions.

    "resample" stretches the table to the new grid by (bi-, tri-) linear interpolation, as nnssl does: a position means
    a share of the image. "extend" keeps it: tokens at the same distance from the middle of the image keep their
    position, and those beyond take that of the nearest known; a position means millimetres.

    Args:
        table: (1, R + T, C) with R entries of register tokens first, and the T of the grid with the last axis fastest.
        old_grid: tokens per axis; 1 to 3 axes.
        grid: tokens per axis of the new grid.
        how: the rule.

    Returns:
        A table (1, R + T of the new grid, C).

    Example:
        >>> table = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
        >>> adapt_positions(table, [4], [2]).flatten()
        tensor([0.5000, 2.5000])
        >>> adapt_positions(table, [4], [6], how="extend").flatten()
        tensor([0., 0., 1., 2., 3., 3.])
    """
    registers = table.shape[1] - math.prod(old_grid)
    channels_first = table[0, registers:].reshape(*old_grid, -1).movedim(-1, 0)
    if how == "extend":
        for axis, (old, new) in enumerate(zip(old_grid, grid, strict=True), start=1):
            places = (torch.arange(new, device=table.device) - (new - old) // 2).clamp(0, old - 1)
            channels_first = channels_first.index_select(axis, places)
    else:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
        channels_first = functional.interpolate(channels_first[None].float(), tuple(grid), mode=mode)[0]
    places = channels_first.movedim(0, -1).flatten(0, -2).to(table.dtype)
    return torch.cat([table[:, :registers], places[None]], 1)


def adapt_merging(
    norm: tuple[Tensor, Tensor], reduction: Tensor, old: Sequence[int], new: Sequence[int]
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Change how many tokens per axis a Swin encoder merges.

    Where more are merged, each new neighbour gets the norm of the old one and an even share of its columns: the answer
    to tokens that do not vary along the axis stays the same. Where fewer are, the one that is left gets the sum of
    their columns and the mean of their norms; the same holds where the norm treats them alike.

    Args:
        norm: scale and shift of the norm, (n C,) each, of the n neighbours in the order of `PatchMerging`: channels
            fastest, then the first axis.
        reduction: (C_out, n C).
        old: tokens per axis that are merged.
        new: the new numbers; on each axis a multiple or a divisor of the old one.

    Returns:
        Scale, shift and reduction for the new neighbours.

    Example:
        >>> scale, shift, reduction = torch.ones(2), torch.zeros(2), torch.tensor([[1.0, 3.0]])
        >>> adapt_merging((scale, shift), reduction, [2], [1])[1]
        tensor([[4.]])
        >>> adapt_merging((scale, shift), reduction, [2], [4])[1]
        tensor([[0.5000, 0.5000, 1.5000, 1.5000]])
    """
    channels = reduction.shape[1] // math.prod(old)
    shape = (*reversed(list(old)), channels)
    (scale, shift), columns = (each.reshape(shape) for each in norm), reduction.reshape(-1, *shape)
    for axis, (before, after) in enumerate(zip(reversed(list(old)), reversed(list(new)), strict=True)):
        if after % before == 0:
            times = after // before
            scale, shift = (each.repeat_interleave(times, axis) for each in (scale, shift))
            columns = columns.repeat_interleave(times, axis + 1) / times
        else:
            split = (after, before // after)
            columns = columns.unflatten(axis + 1, split).sum(axis + 2)
            scale, shift = (each.unflatten(axis, split).mean(axis + 1) for each in (scale, shift))
    return (scale.flatten(), shift.flatten()), columns.flatten(1)
