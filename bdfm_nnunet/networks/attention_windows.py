"""Shifted windows of tokens that attend to each other (Swin Transformer), in any number of axes.

Liu et al. 2021, https://arxiv.org/abs/2103.14030. A window that the end of the grid cuts off is smaller. A shifted
window whose tokens come from opposite faces of the image falls into pieces that must not see each other. Other code
pads and masks in both cases; here the pieces are listed, so nothing is computed that a mask would hide: 24 tokens per
axis in windows of 7 need half the scores of padded windows.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept

_CPU = torch.device("cpu")
Legacy = bool | Literal["reversed"]
"""Whether attention is the published one of BDFM and MONAI, and whether for axes in the reversed order."""


def clipped(window: Sequence[int], grid: Sequence[int]) -> tuple[int, ...]:
    """Return the window, clipped to a grid that may be smaller."""
    return tuple(min(size, count) for size, count in zip(window, grid, strict=True))


def half_shift(window: Sequence[int], grid: Sequence[int]) -> tuple[int, ...]:
    """Return by how many tokens shifted windows are shifted: half a window, on axes that hold more than one.

    Example:
        >>> half_shift((4, 4), (8, 4))
        (2, 0)
    """
    return tuple(size // 2 if count > size else 0 for count, size in zip(grid, clipped(window, grid), strict=True))


@dataclass(frozen=True)
class WindowGroup:
    """Windows, or pieces of windows, of one shape.

    Attributes:
        rows: tokens of each window, (G, N), as raster numbers on the grid; the number after the last is padding.
        index: row of the bias table for each pair of tokens, (N, N).
        padded: whether the tokens include padding.
    """

    rows: Tensor
    index: Tensor
    padded: bool


class Piece(NamedTuple):
    """Tokens of one axis that lie in one window and were neighbours before the shift."""

    tokens: tuple[int, ...]  # on the padded axis
    places: tuple[int, ...]  # in the window


@kept(maxsize=128)
def window_groups(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    table_window: tuple[int, ...],
    legacy: Legacy,
    device: torch.device,
) -> tuple[WindowGroup, ...]:
    """Return every token of the grid once, in groups of windows that can be computed together.

    Args:
        grid: tokens per axis.
        window: tokens per axis of a window.
        shift: shift of the windows in tokens, per axis.
        table_window: window size of the bias table.
        legacy: pad to whole windows, and read the bias table of clipped windows as BDFM's code does, see `SwinEncoder`.
        device: device of the tensors.

    Example:
        >>> groups = window_groups((4, 4), (2, 2), (1, 1), table_window=(2, 2), legacy=False, device=_CPU)
        >>> [tuple(group.rows.shape) for group in groups]  # a whole window, two halves each way, four corners
        [(1, 4), (2, 2), (2, 2), (4, 1)]
    """
    axes = [
        list(window_pieces(size, extent, step, padding=bool(legacy)))
        for size, extent, step in zip(grid, window, shift, strict=True)
    ]
    found: dict[tuple[tuple[int, ...], ...], list[list[int]]] = {}
    for pieces in product(*axes):
        # without the published misreading, the bias depends on the shape alone
        key = tuple(piece.places if legacy else tuple(range(len(piece.places))) for piece in pieces)
        found.setdefault(key, []).append(list(raster_numbers(grid, [piece.tokens for piece in pieces])))
    outside = math.prod(grid)
    groups = []
    for places, rows in found.items():
        if legacy:
            inside = torch.tensor(list(raster_numbers(window, places)))
            index = relative_position_index(window, table_window, legacy)[inside][:, inside].to(device)
        else:
            index = relative_position_index(tuple(map(len, places)), table_window, False, device)
        padded = any(outside in row for row in rows)
        groups.append(WindowGroup(torch.tensor(rows, device=device), index, padded))
    return tuple(groups)


def window_pieces(size: int, extent: int, step: int, *, padding: bool) -> Iterator[Piece]:
    """Return the windows of one axis, cut where tokens were not neighbours before the shift."""
    full = math.ceil(size / extent) * extent
    for first in range(0, full, extent):
        for wrapped in (False, True):
            places = [
                place
                for place in range(extent)
                if (first + place + step >= full) == wrapped and (padding or (first + place + step) % full < size)
            ]
            if places:
                yield Piece(tuple((first + place + step) % full for place in places), tuple(places))


def raster_numbers(grid: Sequence[int], places: Sequence[Sequence[int]]) -> Iterable[int]:
    """Return the raster numbers of the points of a box; points outside the grid get the number after the last.

    Args:
        grid: points per axis.
        places: places of the box on each axis.

    Example:
        >>> list(raster_numbers((2, 3), [[0, 1], [2, 3]]))
        [2, 6, 5, 6]
    """
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
    window: tuple[int, ...], table_window: tuple[int, ...], legacy: Legacy, device: torch.device = _CPU
) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window, (N, N).

    Args:
        window: tokens per axis of the window.
        table_window: window size of the bias table.
        legacy: use the tokens of the unclipped window with the same raster number; "reversed" counts the raster with
            the first axis fastest.
        device: device of the table.

    Example:
        >>> relative_position_index((2,), (2,), legacy=False)  # rows for offsets -1, 0 and 1
        tensor([[1, 0],
                [2, 1]])
    """
    shape = table_window if legacy else window
    points = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, len(shape))
    if legacy == "reversed":
        points = _first_axis_fastest(points.reshape(*shape, -1))[_places_first_axis_fastest(window)]
    offsets = points[:, None] - points[None]  # (N, N, axes)
    index = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for axis, size in enumerate(table_window):
        index = index * (2 * size - 1) + offsets[..., axis] + size - 1
    tokens = math.prod(window)
    return index[:tokens, :tokens].to(device)


def _first_axis_fastest(points: Tensor) -> Tensor:
    """Return the points of a grid, (*grid, axes), in a list with the first axis fastest."""
    axes = points.ndim - 1
    return points.permute(*range(axes - 1, -1, -1), axes).flatten(0, axes - 1)


def _places_first_axis_fastest(window: tuple[int, ...]) -> Tensor:
    """Return for each token of a window, last axis fastest, its place in a list with the first axis fastest."""
    reversed_window = window[::-1]
    places = torch.arange(math.prod(window)).reshape(reversed_window)
    return places.permute(*range(len(window) - 1, -1, -1)).flatten()
