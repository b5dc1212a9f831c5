"""Lists of the visible tokens of a batch, so that an encoder computes nothing for hidden ones.

Shapes: B batch, T tokens of a grid, N visible tokens of a sample, P pieces of windows, L tokens of the longest piece of
a bucket. A position of the last stage is visible or hidden as a whole, and so are all tokens it was merged from.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.networks.attention_windows import window_pieces

SHORTEST, SHORTEST_ON_CARDS = 0.75, 0.5
"""Tokens of the shortest piece of a bucket, relative to the longest: padding costs less than another bucket.

On an accelerator a bucket costs the start of some twenty kernels, and arithmetic next to nothing.
"""
_ROUND = 8  # kernels of attention on CUDA want biases whose rows are a multiple of 16 bytes
_FAR = 1 << 24  # a place so far away that no bias is meant for it


@dataclass(frozen=True)
class Bucket:
    """Pieces of windows with about as many visible tokens.

    Attributes:
        rows: tokens of each piece, (P, L), as numbers among the B * N visible ones; B * N is padding.
        index: column of the bias table for each pair of query and key, (P, L, L); the column after the last hides
            padded keys.
    """

    rows: Tensor
    index: Tensor


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
        self._buckets: dict[tuple[tuple[int, ...], ...], tuple[Bucket, ...]] = {}

    def buckets(
        self, window: tuple[int, ...], shift: tuple[int, ...], table_window: tuple[int, ...]
    ) -> tuple[Bucket, ...]:
        """Return every visible token once, in pieces of windows whose tokens see each other; made at the first call.

        Args:
            window: tokens per axis of a window.
            shift: shift of the windows in tokens, per axis.
            table_window: window size of the bias table.
        """
        key = (window, shift, table_window)
        if key not in self._buckets:
            self._buckets[key] = tuple(self._cut(*key))
        return self._buckets[key]

    def _cut(self, window: tuple[int, ...], shift: tuple[int, ...], table_window: tuple[int, ...]) -> Iterator[Bucket]:
        piece_of, by_piece, pieces = _pieces_of_grid(self.grid, window, shift)
        batch, count = self.numbers.shape
        row_of = torch.full((batch * self.tokens,), -1)
        row_of[self._flat] = torch.arange(batch * count)
        order = row_of.unflatten(0, (batch, -1))[:, by_piece].flatten()
        order = order[order >= 0]  # the visible ones, one piece after the other
        numbered = piece_of[self.numbers] + torch.arange(batch)[:, None] * pieces
        sizes = numbered.flatten().bincount(minlength=batch * pieces)
        starts = sizes.cumsum(0) - sizes
        codes, centre, entries = _offset_codes(self.grid, table_window)
        places = torch.cat([codes[self.numbers].flatten(), torch.tensor([-_FAR])]).int().to(self._device)
        for chosen, longest in _lengths(sizes, SHORTEST if self._device.type in ("cpu", "meta") else SHORTEST_ON_CARDS):
            steps = torch.arange(longest)
            inside = steps < sizes[chosen, None]
            rows = torch.where(inside, order[(starts[chosen, None] + steps).clamp_max_(len(order) - 1)], len(order))
            rows = rows.to(self._device)
            place = places.index_select(0, rows.flatten()).reshape(rows.shape)
            yield Bucket(rows, (place[:, :, None] - place[:, None] + centre).clamp_(0, entries))


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
def _pieces_of_grid(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[Tensor, Tensor, int]:
    """Return the piece of each token of a grid, (T,), all tokens sorted by piece, (T,), and the number of pieces."""
    number, total = torch.zeros(1, dtype=torch.long), 1
    for size, extent, step in zip(grid, window, shift, strict=True):
        pieces = list(window_pieces(size, extent, step, padding=False))
        of_axis = torch.empty(size, dtype=torch.long)
        for i, piece in enumerate(pieces):
            of_axis[list(piece.tokens)] = i
        number = (number[:, None] * len(pieces) + of_axis).flatten()
        total *= len(pieces)
    return number, number.argsort(stable=True), total


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


def _lengths(sizes: Tensor, shortest: float) -> Iterator[tuple[Tensor, int]]:
    """Yield numbers of pieces with about as many tokens, and the length to which they are padded."""
    descending, pieces = sizes.sort(descending=True, stable=True)
    found = descending.tolist()
    first, end = 0, found.index(0) if found[-1] == 0 else len(found)
    while first < end:
        longest = math.ceil(found[first] / _ROUND) * _ROUND
        last = first
        while last < end and (found[last] >= shortest * longest or longest <= 4 * _ROUND):
            last += 1
        yield pieces[first : max(last, first + 1)], longest
        first = max(last, first + 1)
