"""Preparation of a run in two passes over its frames: one for its statistics, one for its standard scores.

Shapes: frames (x, y, z, t), everything else of a run (x, y, z).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.reading.geometry import hash_of_array
from bdfm_nnunet.dataset_conversion.writing.foreground import background_is_zero, largest_bright_piece
from bdfm_nnunet.dataset_conversion.writing.run_lattice import (
    Frames,
    Lattice,
    SpaceResampler,
    resampled_in_time,
    steps_of_time,
)
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.run_files import RunFile
from bdfm_nnunet.images.sequence_files import CHUNK_FRAMES, STORES

FRAMES_AT_ONCE = 4 * CHUNK_FRAMES
"""Frames in memory at once: 57 MB of single precision at 96 x 96 x 96 voxels."""
MOST_CONSTANT = 0.5
"""Share of the brain mask whose voxels may be the same in all frames, at the edges of the field of view."""

LEAST_CHANGE = 1e-6
"""Deviation that can be standardised, relative to the largest value."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Timing:
    """The frames of a run that are kept.

    Attributes:
        repetition_time: seconds between frames of the source.
        dropped: frames dropped at the start.
        displacement: mean framewise displacement of the others in mm; None where it is not known.
    """

    repetition_time: float
    dropped: int
    displacement: float | None

    def told(self) -> Iterator[str]:
        """Yield what the manifest notes of it."""
        if self.displacement is not None:
            yield f"mean framewise displacement {self.displacement:.3g} mm"
        if self.dropped:
            yield f"{self.dropped} frames dropped at the start"


@dataclass(frozen=True)
class Resampling:
    """How the frames of a run become those that are stored.

    Attributes:
        run: the source.
        lattice: of the stored voxels.
        dropped: frames dropped at the start.
        repetition_time: seconds between frames of the source.
        time_step: seconds between stored frames.
    """

    run: RunFile
    lattice: Lattice
    dropped: int
    repetition_time: float
    time_step: float

    @property
    def positions(self) -> NDArray[np.float64]:
        """Where the stored frames lie among those that are kept."""
        return steps_of_time(self.run.shape[3] - self.dropped, self.repetition_time, self.time_step)

    def frames(self, hashes: list[str] | None = None) -> Iterator[Frames]:
        """Yield stored frames before standardisation, `FRAMES_AT_ONCE` at once; the whole file is read.

        Args:
            hashes: is added the hash of each of the source's frames.
        """
        return resampled_in_time(self._in_space(hashes), self.positions, FRAMES_AT_ONCE)

    def _in_space(self, hashes: list[str] | None) -> Iterator[Frames]:
        resampler, first = SpaceResampler(self.run.grid, self.lattice), 0
        for block in self.run.blocks(FRAMES_AT_ONCE):
            if hashes is not None:
                hashes += [hash_of_array(block[..., i], self.run.grid) for i in range(block.shape[3])]
            skipped = min(max(self.dropped - first, 0), block.shape[3])
            first += block.shape[3]
            if skipped < block.shape[3]:
                yield resampler(block[..., skipped:])


@dataclass
class VoxelStatistics:
    """Statistics of each voxel over the stored frames.

    Attributes:
        total: sum of its values.
        squares: sum of their squares.
        low: smallest value.
        high: largest value.
        nonzero: frames in which it is not zero.
        frames: number of frames.
    """

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    nonzero: NDArray[np.int64]
    frames: int = 0

    @classmethod
    def of(cls, blocks: Iterator[Frames], shape: tuple[int, ...]) -> "VoxelStatistics":
        """Return the statistics of all frames."""
        infinite = np.full(shape, np.inf, np.float32)
        sums = (np.zeros(shape), np.zeros(shape))
        found = cls(*sums, infinite, -infinite, np.zeros(shape, np.int64))
        for block in blocks:
            found.total += block.sum(axis=3, dtype=np.float64)
            found.squares += np.einsum("xyzt,xyzt->xyz", block, block, dtype=np.float64)
            np.minimum(found.low, block.min(axis=3), out=found.low)
            np.maximum(found.high, block.max(axis=3), out=found.high)
            found.nonzero += np.count_nonzero(block, axis=3)
            found.frames += block.shape[3]
        return found

    @property
    def changing(self) -> Mask:
        """The voxels whose values are not all the same."""
        return self.low < self.high

    def moments(self, mask: Mask) -> tuple[float, float]:
        """Return mean and unbiased standard deviation over the voxels of a mask and all frames."""
        count = int(mask.sum()) * self.frames
        mean = float(self.total[mask].sum()) / count
        variance = (float(self.squares[mask].sum()) - count * mean**2) / (count - 1)
        return mean, max(variance, 0.0) ** 0.5

    def moments_of_voxels(self, mask: Mask) -> tuple[Frames, Frames]:
        """Return mean and unbiased standard deviation of each voxel over the frames, 0 and 1 outside of a mask.

        A deviation below what single precision tells from none is as large as that, so that rounding is not blown up.
        """
        mean = self.total / self.frames
        variance = (self.squares - self.frames * mean**2) / max(self.frames - 1, 1)
        least = LEAST_CHANGE * np.maximum(np.abs(self.low), np.abs(self.high))
        std = np.maximum(np.sqrt(np.maximum(variance, 0)), least)
        return np.where(mask, mean, 0).astype(np.float32), np.where(mask, std, 1).astype(np.float32)

    def brain(self, inside: Mask) -> tuple[Mask, str]:
        """Return what is brain by the frames alone, and how it was found.

        Args:
            inside: the field of view.
        """
        nonzero = 2 * self.nonzero > self.frames
        if background_is_zero(nonzero[inside]):
            return nonzero, "derived: voxels that are not zero in more than half of the frames"
        return largest_bright_piece(self.total / self.frames), (
            "derived: largest piece of the mean frame above Otsu's threshold, with the skull where that was not removed"
        )


def without_constant(mask: Mask, statistics: VoxelStatistics, name: str) -> tuple[Mask, int]:
    """Return a brain mask without voxels that never change, and how many these are.

    Args:
        mask: the brain.
        statistics: of the frames.
        name: of the run, for messages.

    Raises:
        Refusal: there is no brain, or too much of it never changes.
    """
    brain = int(mask.sum())
    if not brain:
        raise Refusal(
            f"{name} has no brain in the stored box (its mask lies outside, or all values are zero): check that mask "
            "and run belong together"
        )
    kept = mask & statistics.changing
    constant = brain - int(kept.sum())
    if constant > MOST_CONSTANT * brain:
        raise Refusal(
            f"{name} has the same value in all frames in {constant / brain:.0%} of the voxels of its brain: check that "
            "it is a run of changing frames, and that its mask belongs to it"
        )
    return kept, constant


@dataclass(frozen=True)
class Standardisation:
    """From values of a run to stored numbers.

    Attributes:
        mask: of the brain.
        mean: of the brain's values; or of each voxel's, (x, y, z, 1).
        std: their standard deviation, of the same shape.
        background: standard score of voxels outside the brain: the smallest in it, as its number is stored, or 0 where
            each voxel has its own mean.
        store: number type, one of `STORES`.
        scale: what stored numbers are multiplied by.
    """

    mask: Mask
    mean: float | Frames
    std: float | Frames
    background: float
    store: str
    scale: float

    @classmethod
    def of(
        cls, mask: Mask, statistics: VoxelStatistics, name: str, *, store: str, each_voxel: bool = False
    ) -> "Standardisation":
        """Return the standardisation of a run.

        Args:
            mask: of the brain.
            statistics: of its frames.
            name: of the run, for messages.
            store: number type, one of `STORES`.
            each_voxel: take mean and deviation of each voxel over its frames, in place of those of the whole run.

        Raises:
            Refusal: its values do not differ enough to be standardised.
        """
        mean, std = statistics.moments(mask)
        low, high = float(statistics.low[mask].min()), float(statistics.high[mask].max())
        if not std > LEAST_CHANGE * max(abs(low), abs(high)):
            raise Refusal(f"{name} has nearly the same value ({mean:g}) in all of its brain: export it again")
        if each_voxel:
            means, stds = statistics.moments_of_voxels(mask)
            least = ((statistics.low - means)[mask] / stds[mask]).min()
            most = ((statistics.high - means)[mask] / stds[mask]).max()
            found = cls(mask, means[..., None], stds[..., None], 0.0, store, 1.0)
            return found._scaled(float(least), float(most), name)
        lowest, highest = (low - mean) / std, (high - mean) / std
        found = cls(mask, mean, std, lowest, store, 1.0)._scaled(lowest, highest, name)
        return replace(
            found, background=float(found.stored(np.array([lowest], np.float32))[0] * np.float32(found.scale))
        )

    def _scaled(self, lowest: float, highest: float, name: str) -> "Standardisation":
        """Return it with the scale that the number type needs for scores from the lowest to the highest."""
        largest = max(abs(lowest), abs(highest))
        whole = np.issubdtype(STORES[self.store], np.integer)
        if not whole and largest > np.finfo(STORES[self.store]).max:
            raise Refusal(
                f"{name} has values up to {largest:g} standard deviations, beyond {self.store}: use --store int16"
            )
        return replace(self, scale=largest / float(np.iinfo(STORES[self.store]).max) if whole else 1.0)

    def scores(self, block: Frames) -> Frames:
        """Return the standard scores of a block of frames, the background outside the brain."""
        found: Frames = (block - np.float32(self.mean)) / np.float32(self.std)
        found[~self.mask] = self.background
        return found

    def stored(self, scores: Frames) -> NDArray[Any]:
        """Return the numbers that are stored for standard scores."""
        if not np.issubdtype(STORES[self.store], np.integer):
            return scores.astype(STORES[self.store])
        most = np.iinfo(STORES[self.store]).max
        return np.rint(scores / np.float32(self.scale)).clip(-most, most).astype(STORES[self.store])
