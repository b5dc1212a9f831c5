"""Which tokens of a grid attend to one another in shifted windows, in any number of axes.

A window that the end of the grid cuts off is smaller, and a shifted window whose tokens come from opposite faces of the
image falls into pieces that may not see each other. Both are usually done by padding and masking; here the pieces
themselves are listed, so nothing is computed that a mask would hide: 24 tokens an axis in windows of 7 take half the
scores of padded ones.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class WindowGroup:
    """Windows, or pieces of windows, of one shape.

    Attributes:
        rows: the tokens of each, (G, N), as raster numbers on the grid; one past the last stands for padding.
        index: row of the bias table for each pair of their tokens, (N, N).
        padded: whether padding is among the tokens.
    """

    rows: Tensor
    index: Tensor
    padded: bool


class _Piece(NamedTuple):
    tokens: tuple[int, ...]  # on the padded axis
    places: tuple[int, ...]  # in the window


@kept(maxsize=128)
def window_groups(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    table_window: tuple[int, ...],
    legacy: bool,
    device: torch.device,
) -> tuple[WindowGroup, ...]:
    """Every token of the grid once, in groups of windows that can be computed together.

    Args:
        grid: tokens per axis.
        window: tokens per axis of a window.
        shift: how far the windows are shifted, per axis.
        table_window: the window that the bias table was made for.
        legacy: padding to whole windows takes part, and clipped windows read the bias table as published, see
            `SwinEncoder`.
        device: where the tensors are wanted.
    """
    axes = [
        list(_pieces(size, extent, step, padding=legacy))
        for size, extent, step in zip(grid, window, shift, strict=True)
    ]
    found: dict[tuple[tuple[int, ...], ...], list[list[int]]] = {}
    for pieces in product(*axes):
        # without the published misreading, the bias depends on the shape alone
        key = tuple(piece.places if legacy else tuple(range(len(piece.places))) for piece in pieces)
        found.setdefault(key, []).append(list(_numbers(grid, [piece.tokens for piece in pieces])))
    outside = math.prod(grid)
    groups = []
    for places, rows in found.items():
        if legacy:
            inside = torch.tensor(list(_numbers(window, places)))
            index = relative_position_index(window, table_window, True)[inside][:, inside].to(device)
        else:
            index = relative_position_index(tuple(map(len, places)), table_window, False, device)
        padded = any(outside in row for row in rows)
        groups.append(WindowGroup(torch.tensor(rows, device=device), index, padded))
    return tuple(groups)


def _pieces(size: int, extent: int, step: int, *, padding: bool) -> Iterator[_Piece]:
    """The windows of one axis, cut where tokens were no neighbours before the shift."""
    full = math.ceil(size / extent) * extent
    for first in range(0, full, extent):
        for wrapped in (False, True):
            places = [
                place
                for place in range(extent)
                if (first + place + step >= full) == wrapped and (padding or (first + place + step) % full < size)
            ]
            if places:
                yield _Piece(tuple((first + place + step) % full for place in places), tuple(places))


def _numbers(grid: Sequence[int], places: Sequence[Sequence[int]]) -> Iterable[int]:
    """Raster numbers of the points of a box; one past the last for those outside the grid."""
    for point in product(*places):
        number = 0
        for place, size in zip(point, grid, strict=True):
            if place >= size:
                number = math.prod(grid)
                break
            number = number * size + place
        yield number


@kept(maxsize=64)
def relative_position_index(
    window: tuple[int, ...], table_window: tuple[int, ...], legacy: bool, device: torch.device = _CPU
) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, (N, N); the table covers windows up to `table_window`.

    With `legacy` the tokens of a clipped window are taken for those of the same raster number in the unclipped one.
    """
    shape = table_window if legacy else window
    points = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, len(shape))
    offsets = points[:, None] - points[None]  # (N, N, axes)
    index = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for axis, size in enumerate(table_window):
        index = index * (2 * size - 1) + offsets[..., axis] + size - 1
    tokens = math.prod(window)
    return index[:tokens, :tokens].to(device)
