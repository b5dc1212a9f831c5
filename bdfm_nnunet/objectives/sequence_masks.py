"""Masks of 4-D images over their tokens: windows, single tokens, tubes through all frames, regions of an atlas.

Shapes: B samples, *grid tokens along X, Y, Z and T, time last. Masks are boolean (B, *grid), True = masked. A unit is
what is masked as a whole: a set of tokens in space, during successive frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.hashed_noise import draw_keys, uniform_field

MaskKind = Literal["window", "random", "tube", "atlas"]
_STEPS = 2**24  # of `uniform_field`
_START = 1  # stream of the numbers that say where the choice among ordered units begins


@dataclass(frozen=True, kw_only=True)
class SequenceMasking:
    """How tokens are masked.

    Of the units that hold brain, the rounded share `ratio` is masked; at least one, and never all. Of the units that a
    grid cuts off at its end, the same share is masked as of whole ones, so the share of tokens is right within one
    unit too. Where a sample has no brain, all units count.

    Attributes:
        kind: units are a "window" of tokens; a single token ("random"); the same window in space in all frames
            ("tube"); or a region during the frames of a window ("atlas").
        ratio: share of the units.
        window: tokens per axis of a window; the last ones are cut off if the grid is not a multiple of it.
        legacy: as published: floor(ratio * number) of all units, with or without brain, which may be none; and the same
            regions in all frames, at least one.

    Raises:
        ValueError: the ratio is not inside (0, 1), or a window has other axes.

    Example:
        >>> masking = SequenceMasking(kind="tube", ratio=0.5)
        >>> mask = masking.draw(2, (8, 8, 8, 6), generator=torch.Generator().manual_seed(0))
        >>> mask.shape, mask.flatten(1).float().mean(1), bool((mask == mask[..., :1]).all())
        (torch.Size([2, 8, 8, 8, 6]), tensor([0.5000, 0.5000]), True)
    """

    kind: MaskKind = "window"
    ratio: float = 0.5
    window: Sequence[int] = (4, 4, 4, 4)
    legacy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask ratio is {self.ratio}, expected a number between 0 and 1, both excluded")
        if len(self.window) != 4 or min(self.window) < 1:
            raise ValueError(f"a window of {tuple(self.window)}, expected tokens along X, Y, Z and T, at least 1 each")

    def draw(
        self,
        batch: int,
        grid: Sequence[int],
        *,
        brain: Tensor | None = None,
        regions: Tensor | None = None,
        generator: torch.Generator,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks; the same numbers on every device. See `masks`.

        Args:
            batch: number of samples.
            grid: tokens per axis, time last.
            brain: as in `masks`.
            regions: as in `masks`.
            generator: random generator, on the CPU.
            device: of the masks; by default the CPU.
        """
        keys = draw_keys(batch, generator=generator).to(device or "cpu")
        return self.masks(keys, grid, brain=brain, regions=regions)

    def masks(
        self, keys: Tensor, grid: Sequence[int], *, brain: Tensor | None = None, regions: Tensor | None = None
    ) -> Tensor:
        """Return the masks that a few drawn numbers decide.

        Args:
            keys: (B, 2) whole numbers, from `draw_keys`.
            grid: tokens per axis, time last.
            brain: (B or 1, X, Y, Z), share of each token's voxels that are brain; by default all are.
            regions: (B or 1, X, Y, Z) whole numbers, see `token_regions`; only for "atlas". 0 is never masked.

        Returns:
            Boolean (B, *grid) on the device of the keys.

        Raises:
            ValueError: shapes do not fit.
            InputError: the whole grid is a single unit, or there are no regions.
        """
        units = self._units(grid, regions, keys.device)
        eligible = units.tokens > 0
        if brain is not None and not self.legacy:
            with_brain = eligible & (units.sums(brain.to(keys.device).float()) > 0)[..., None]
            eligible = torch.where(with_brain.flatten(1).any(1)[:, None, None], with_brain, eligible)
        alike = self.kind == "atlas" or self.legacy
        sizes = torch.zeros_like(units.tokens) if alike else units.tokens.amax() - units.tokens
        every = (each.expand(len(keys), -1, -1).flatten(1) for each in (eligible, sizes))
        return units.spread((self._first if self.legacy else self._spread_out)(keys, *every), grid[-1])

    def _units(self, grid: Sequence[int], regions: Tensor | None, device: torch.device) -> "_Units":
        if len(grid) != 4 or min(grid) < 1:
            raise ValueError(f"a grid of {tuple(grid)}, expected tokens along X, Y, Z and T, at least 1 each")
        frames = {"random": 1, "tube": grid[-1]}.get(self.kind, self.window[-1])
        if self.kind == "atlas":
            frames = grid[-1] if self.legacy else frames
            space, count = _of_regions(regions, grid, device)
        else:
            steps = (1, 1, 1) if self.kind == "random" else self.window[:-1]
            space, count = window_numbers(grid[:-1], steps, device)
        lengths = [min(frames, grid[-1] - first) for first in range(0, grid[-1], frames)]
        if count * len(lengths) < 2:
            raise InputError(
                f"a grid of {tuple(grid)} tokens is a single {self.kind} of {tuple(self.window)}: choose a smaller "
                "pretraining.mask_window, or an atlas of several regions"
            )
        return _Units(space, count, torch.tensor(lengths, device=device))

    def _spread_out(self, keys: Tensor, eligible: Tensor, sizes: Tensor) -> Tensor:
        """Choose among units in a random order, in which those of one size follow one another, at equal steps."""
        order = _shuffled(keys, eligible, sizes)
        there = eligible.sum(1, keepdim=True).clamp(min=1)
        wanted = (there * self.ratio).round().long().clamp(min=1).minimum((there - 1).clamp(min=1))
        start = (uniform_field(keys, (1,), stream=_START) * _STEPS).long()
        place = torch.arange(eligible.shape[1] + 1, device=keys.device)
        before = -((start * there - place * wanted * _STEPS) // (there * _STEPS))  # rounded up
        return torch.zeros_like(eligible).scatter(1, order, before.minimum(wanted).diff(dim=1) > 0)

    def _first(self, keys: Tensor, eligible: Tensor, sizes: Tensor) -> Tensor:
        """Choose the first of units in a random order."""
        order = _shuffled(keys, eligible, sizes)
        counts = [math.floor(number * self.ratio) for number in eligible.sum(1).tolist()]
        wanted = torch.tensor(counts, device=keys.device).clamp(min=int(self.kind == "atlas"))[:, None]
        first = torch.arange(eligible.shape[1], device=keys.device) < wanted
        return torch.zeros_like(eligible).scatter(1, order, first)


@dataclass(frozen=True)
class _Units:
    """Number of the unit in space of each token, (B or 1, X, Y, Z), -1 for none; how many; frames of those in time."""

    space: Tensor
    count: int
    lengths: Tensor

    @property
    def tokens(self) -> Tensor:
        """Tokens of each unit, (B or 1, in space, in time)."""
        return self.sums(torch.ones(self.space.shape, device=self.space.device))[..., None].long() * self.lengths

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of tokens (B or 1, X, Y, Z) over the units in space, (B or 1, count)."""
        values, space = torch.broadcast_tensors(values, self.space)
        sums = torch.zeros(len(values), self.count + 1, device=values.device)
        return sums.scatter_add_(1, space.flatten(1) % (self.count + 1), values.flatten(1))[:, :-1]

    def spread(self, chosen: Tensor, frames: int) -> Tensor:
        """Return units (B, in space * in time) as tokens, (B, X, Y, Z, T)."""
        chosen = chosen.unflatten(1, (self.count, len(self.lengths)))
        places = self.space.clamp(min=0).flatten(1).expand(len(chosen), -1)[..., None]
        hidden = chosen.gather(1, places.expand(-1, -1, len(self.lengths))).unflatten(1, self.space.shape[1:])
        hidden = hidden.repeat_interleave(self.lengths, -1, output_size=frames)
        return hidden & (self.space >= 0)[..., None]


def _of_regions(regions: Tensor | None, grid: Sequence[int], device: torch.device) -> tuple[Tensor, int]:
    if regions is None:
        raise InputError("masks of regions need an atlas: give one, or choose another pretraining.mask")
    if regions.ndim != 4 or tuple(regions.shape[1:]) != tuple(grid[:-1]):
        raise ValueError(f"regions of shape {tuple(regions.shape)}, expected (B, {', '.join(map(str, grid[:-1]))})")
    space = regions.to(device).long() - 1
    return space, int(space.max()) + 1


def _shuffled(keys: Tensor, eligible: Tensor, sizes: Tensor) -> Tensor:
    """Return the numbers of units (B, N) in a random order, by size; those that are not eligible come last."""
    noise = (uniform_field(keys, (eligible.shape[1],)) * _STEPS).long()
    return torch.where(eligible, sizes * _STEPS + noise, (sizes.amax() + 1) * _STEPS).argsort(1)


def window_numbers(
    grid: Sequence[int], window: Sequence[int], device: torch.device | None = None
) -> tuple[Tensor, int]:
    """Return the number of the window of each position, (1, *grid) in raster order, and how many there are.

    Example:
        >>> window_numbers((2, 3), (1, 2))
        (tensor([[[0, 0, 1],
                 [2, 2, 3]]]), 4)
    """
    number, count = torch.zeros((), dtype=torch.long, device=device), 1
    for size, step in zip(grid, window, strict=True):
        along = math.ceil(size / step)
        number = number[..., None] * along + torch.arange(size, device=device) // step
        count *= along
    return number[None], count


def of_windows(windows: Tensor, grid: Sequence[int], window: Sequence[int] = (4, 4, 4, 4)) -> Tensor:
    """Return a mask of windows as one of tokens.

    Args:
        windows: boolean (B, N); windows in raster order, time fastest.
        grid: tokens per axis.
        window: tokens per axis of a window.

    Returns:
        Boolean (B, *grid).

    Example:
        >>> of_windows(torch.tensor([[True, False]]), (1, 1, 1, 3), (1, 1, 1, 2))
        tensor([[[[[ True,  True, False]]]]])
    """
    return windows[:, window_numbers(grid, window, windows.device)[0][0]]


def token_regions(atlas: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Return for each token the most frequent region of its voxels, background aside.

    Args:
        atlas: (B, X, Y, Z) whole numbers from 0, the background, to a few thousand.
        patch_size: voxels per axis of a token in space.

    Returns:
        (B, *tokens in space); of regions that are equally frequent the one of the smallest number, and 0 where there is
        only background.

    Raises:
        ValueError: an axis is not a whole number of tokens, or a number is negative.

    Example:
        >>> token_regions(torch.tensor([[[[0, 0, 7, 0], [5, 5, 7, 2]]]]), (1, 2, 2))
        tensor([[[[5, 7]]]])
    """
    if bool((atlas < 0).any()):
        raise ValueError(f"an atlas has the region {int(atlas.min())}, expected whole numbers from 0 on")
    voxels = patchify(atlas[:, None].long(), patch_size).flatten(0, 1).flatten(1)
    votes = torch.zeros(len(voxels), int(atlas.max()) + 1, device=atlas.device)
    votes.scatter_add_(1, voxels, torch.ones_like(voxels, dtype=votes.dtype))
    votes[:, 0] = 0.5  # less than any region that is there
    most = votes.amax(1, keepdim=True)
    numbers = torch.arange(votes.shape[1], device=atlas.device)
    found = torch.where(votes == most, numbers, votes.shape[1]).amin(1)
    return found.reshape(len(atlas), *(size // step for size, step in zip(atlas.shape[1:], patch_size, strict=True)))
