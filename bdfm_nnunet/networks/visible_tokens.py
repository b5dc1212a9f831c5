"""Lists of the visible tokens of a batch, so that an encoder computes nothing for hidden ones.

Shapes: B batch, T tokens of a grid, N visible tokens of a sample, P pieces of windows, L tokens of the longest piece of
a bucket. A position of the last stage is visible or hidden as a whole, and so are all tokens it was merged from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.networks.attention_windows import window_pieces

_SPARE, _SPARE_ON_CARDS = 1 << 15, 1 << 20
"""Pairs of tokens that padding may add to a bucket: they cost as much as another bucket.

On an accelerator a bucket costs the start of some ten kernels, and arithmetic next to nothing.
"""
_ROUND = 8  # kernels of attention on CUDA want biases whose rows are a multiple of 16 bytes
_FAR = 1 << 24  # a place so far away that no bias is meant for it


@dataclass(frozen=True)
class Bucket:
    """Pieces of windows with about as many visible tokens.

    Attributes:
        rows: tokens of each piece, (P, L), as numbers among the B * N visible ones; B * N is padding.
        places: of each piece, (P, L); differences of places tell relative positions, see `Pieces.columns`.
    """

    rows: Tensor
    places: Tensor


@dataclass(frozen=True)
class Pieces:
    """Pieces of the windows of a stage, in slots: those of one bucket after the other, piece by piece.

    Attributes:
        rows: the visible token in each slot, (S,), as a number among the B * N visible ones; B * N is padding.
        places: of each slot, (S,).
        slots: the slot of each visible token, (B * N,).
        shapes: pieces and tokens of a piece, for each bucket.
        centre: column of the bias table of a pair of tokens in the same place.
        entries: columns of the bias table.
    """

    rows: Tensor
    places: Tensor
    slots: Tensor
    shapes: tuple[tuple[int, int], ...]
    centre: int
    entries: int

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets, every visible token in one of them."""
        parts = [part.split([p * length for p, length in self.shapes]) for part in (self.rows, self.places)]
        return tuple(
            Bucket(rows.view(shape), places.view(shape))
            for rows, places, shape in zip(*parts, self.shapes, strict=True)
        )

    @cached_property
    def filled_rows(self) -> Tensor:
        """The visible token in each slot, any one where there is padding, (S,)."""
        return self.rows.clamp_max(len(self.slots) - 1)

    @property
    def pairs(self) -> list[int]:
        """Pairs of slots of each bucket."""
        return [pieces * length**2 for pieces, length in self.shapes]

    def columns(self, places: Tensor) -> Tensor:
        """Return the column of the bias table for each pair of query and key, (p, L, L), of places (p, L).

        The column after the last hides padded keys.
        """
        return (places[:, :, None] - places[:, None]).add_(self.centre).clamp_(0, self.entries)

    @cached_property
    def all_columns(self) -> Tensor:
        """The columns of the pairs of all buckets, (Q,), made at the first call."""
        columns = self.places.new_empty(sum(self.pairs))
        for part, bucket in zip(columns.split(self.pairs), self.buckets, strict=True):
            places = bucket.places
            torch.sub(places[:, :, None], places[:, None], out=part.view(*places.shape, -1))
        return columns.add_(self.centre).clamp_(0, self.entries)


class VisibleStage:
    """The visible tokens of one stage.

    Tokens that the next merging joins lie side by side, in the order in which `PatchMerging` joins them.

    Attributes:
        grid: tokens per axis.
        numbers: raster numbers of the visible tokens on the grid, (B, N), on the CPU.
        flat: the same among all tokens of the batch, (B * N,), on the device.
    """

    def __init__(self, grid: tuple[int, ...], numbers: Tensor, device: torch.device) -> None:
        self.grid = grid
        self.numbers = numbers
        self._device = device
        self.tokens = math.prod(grid)
        self._flat = (numbers + torch.arange(len(numbers))[:, None] * self.tokens).flatten()
        self.flat = self._flat.to(device)
        self._pieces: dict[tuple[tuple[int, ...], ...], Pieces] = {}

    def pieces(self, window: tuple[int, ...], shift: tuple[int, ...], table_window: tuple[int, ...]) -> Pieces:
        """Return every visible token once, in pieces of windows whose tokens see each other; made at the first call.

        Args:
            window: tokens per axis of a window.
            shift: shift of the windows in tokens, per axis.
            table_window: window size of the bias table.
        """
        key = (window, shift, table_window)
        if key not in self._pieces:
            self._pieces[key] = self._cut(*key)
        return self._pieces[key]

    def _cut(self, window: tuple[int, ...], shift: tuple[int, ...], table_window: tuple[int, ...]) -> Pieces:
        of_grid, count = _pieces_of_grid(self.grid, window, shift)
        codes, centre, entries = _offset_codes(self.grid, table_window)
        batch, total = len(self.numbers), self.numbers.numel()
        piece = (of_grid[self.numbers] + torch.arange(batch)[:, None] * count).flatten()
        sizes, order = piece.bincount(minlength=batch * count), piece.argsort(stable=True)
        starts, shapes = _lengths(sizes, _SPARE if self._device.type in ("cpu", "meta") else _SPARE_ON_CARDS)
        # the tokens of a piece lie side by side, in `order` and in the slots; both begin at some number
        moved = starts - (sizes.cumsum(0) - sizes)
        slots = torch.empty(total, dtype=torch.long)
        slots[order] = moved[piece[order]] + torch.arange(total)
        made = torch.tensor([[total], [-_FAR]]).repeat(1, sum(pieces * length for pieces, length in shapes))
        made[0, slots] = torch.arange(total)
        made[1, slots] = codes[self.numbers].flatten()
        rows, places = made.to(self._device)
        return Pieces(rows, places.int(), slots.to(self._device), shapes, centre, entries)


class VisibleTokens:
    """The visible tokens of every stage of an encoder.

    Args:
        visible: boolean (B, *grid of the last stage), True = visible; as many in every sample.
        merging: tokens per axis that are merged before each stage after the first, as in `SwinEncoder`.
        device: device of the lists. They are made on the CPU: their sizes depend on the mask.

    Attributes:
        stages: one `VisibleStage` per stage, finest first.

    Raises:
        ValueError: samples differ in the number of visible positions, or have none.

    Example:
        >>> visible = torch.tensor([[[True, False], [False, False]]])
        >>> tokens = VisibleTokens(visible, merging=[(2, 2)], device=torch.device("cpu"))
        >>> [(stage.grid, stage.numbers.tolist()) for stage in tokens.stages]
        [((4, 4), [[0, 4, 1, 5]]), ((2, 2), [[0]])]
    """

    def __init__(self, visible: Tensor, merging: Sequence[Sequence[int]], device: torch.device) -> None:
        visible = visible.cpu()
        batch, *coarsest = visible.shape
        counts = visible.flatten(1).sum(1)
        if not len(counts) or counts.min() < 1 or counts.min() != counts.max():
            raise ValueError(f"samples have {counts.tolist()} visible positions, expected the same number above 0")
        positions = visible.flatten(1).nonzero()[:, 1].reshape(batch, -1)
        self.stages = []
        for stage in range(len(merging) + 1):
            grid, starts, offsets = _family(tuple(coarsest), tuple(map(tuple, merging[stage:])))
            numbers = (starts[positions][..., None] + offsets).flatten(1)
            self.stages.append(VisibleStage(grid, numbers, device))


@kept(maxsize=64)
def _family(grid: tuple[int, ...], merging: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Return a finer grid, and the tokens on it from which each position of the last grid is merged.

    Returns:
        Tokens per axis; the raster number of each position's first token, (positions,); the numbers of its tokens
        relative to that, in the order in which they are merged.
    """
    tokens: list[tuple[int, ...]] = [(0,) * len(grid)]
    for stride in reversed(merging):
        # the first axis varies fastest among the joined neighbours
        neighbours = [point[::-1] for point in product(*map(range, reversed(stride)))]
        tokens = [
            tuple(t * s + n for t, s, n in zip(token, stride, neighbour, strict=True))
            for token in tokens
            for neighbour in neighbours
        ]
    scale = [math.prod(stride[axis] for stride in merging) for axis in range(len(grid))]
    finer = tuple(count * step for count, step in zip(grid, scale, strict=True))
    steps = torch.tensor([math.prod(finer[axis + 1 :]) for axis in range(len(grid))])
    starts = torch.tensor(list(product(*map(range, grid)))) * torch.tensor(scale)
    return finer, (starts * steps).sum(1), (torch.tensor(tokens) * steps).sum(1)


@kept(maxsize=128)
def _pieces_of_grid(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> tuple[Tensor, int]:
    """Return the piece of each token of a grid, (T,), and the number of pieces."""
    number, total = torch.zeros(1, dtype=torch.long), 1
    for size, extent, step in zip(grid, window, shift, strict=True):
        pieces = list(window_pieces(size, extent, step, padding=False))
        of_axis = torch.empty(size, dtype=torch.long)
        for i, piece in enumerate(pieces):
            of_axis[list(piece.tokens)] = i
        number = (number[:, None] * len(pieces) + of_axis).flatten()
        total *= len(pieces)
    return number, total


@kept(maxsize=64)
def _offset_codes(grid: tuple[int, ...], table_window: tuple[int, ...]) -> tuple[Tensor, int, int]:
    """Return numbers of tokens, (T,), whose difference is the column of the bias table, up to a constant.

    Returns:
        The numbers, the column of the offset 0, and the number of columns.
    """
    code, centre = torch.zeros(1, dtype=torch.long), 0
    for size, extent in zip(grid, table_window, strict=True):
        code = (code[:, None] * (2 * extent - 1) + torch.arange(size)).flatten()
        centre = centre * (2 * extent - 1) + extent - 1
    return code, centre, math.prod(2 * extent - 1 for extent in table_window)


def _lengths(sizes: Tensor, spare: int) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Group pieces with about as many tokens.

    Args:
        sizes: tokens of each piece.
        spare: pairs of tokens that padding may add to a group.

    Returns:
        The first slot of each piece; and, for each group, its pieces and the length to which they are padded.
    """
    descending, order = sizes.sort(descending=True, stable=True)
    rounded = (descending[descending > 0] + _ROUND - 1) // _ROUND * _ROUND
    lengths, counts = rounded.unique_consecutive(return_counts=True)
    shapes: list[tuple[int, int]] = []
    added = 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        pieces, longest = shapes[-1] if shapes else (0, length)
        added += count * (longest**2 - length**2)
        if pieces and added <= spare:
            shapes[-1] = (pieces + count, longest)
        else:
            shapes.append((count, length))
            added = 0
    padded = torch.tensor([longest for _, longest in shapes]).repeat_interleave(torch.tensor([n for n, _ in shapes]))
    starts = torch.zeros_like(sizes)
    starts[order[: len(padded)]] = padded.cumsum(0) - padded
    return starts, tuple(shapes)
