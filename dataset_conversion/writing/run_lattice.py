"""Resampling of 4-D runs: a lattice of stored voxels in RAS, through the affine, and equal steps of time.

Shapes: frames (x, y, z, t). Interpolation is linear. A sample up to half a voxel (half a frame) beyond the outermost
centres takes the value there; further out, space is zero.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.images.grids import Grid

TEMPLATE_CENTRE = (0.0, -18.0, 18.0)
"""mm in RAS: the middle voxel of FSL's MNI152 grid of 91 x 109 x 91; a lattice of 2 mm lies on its voxels."""
ON_A_VOXEL = 1e-3
"""Voxels by which a sample may miss a voxel and still take its value alone: less than headers round."""
TURNED = 0.05
"""Voxels by which an axis may lean at its far end and still count as parallel to one of the lattice."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Lattice:
    """Positions of stored voxels; axes point to right, anterior and superior.

    Attributes:
        origin: mm of the first voxel, RAS.
        spacing: mm.
        shape: voxels per axis.
    """

    origin: tuple[float, ...]
    spacing: float
    shape: tuple[int, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """From voxel indices to mm, 4 x 4."""
        affine = np.diag([self.spacing] * 3 + [1.0])
        affine[:3, 3] = self.origin
        return affine


def in_ras(grid: Grid) -> NDArray[np.float64]:
    """Return the affine of a grid from voxel indices to mm whose axes point to right, anterior and superior."""
    return np.asarray(_LPS @ grid.affine)


def template_lattice(spacing: float, size: int) -> Lattice:
    """Return the lattice around the centre of the MNI template that all runs in its space share."""
    origin = tuple(centre - spacing * (size // 2) for centre in TEMPLATE_CENTRE)
    return Lattice(origin, spacing, (size,) * 3)


def own_lattice(grid: Grid, spacing: float, size: int) -> Lattice:
    """Return the lattice that fills a run's field of view, cropped or padded around its centre.

    Args:
        grid: of the run.
        spacing: mm.
        size: voxels per axis; 0 for the whole field of view.
    """
    corners = np.stack(np.meshgrid(*((-0.5, length - 0.5) for length in grid.size), indexing="ij"), -1).reshape(-1, 3)
    affine = in_ras(grid)
    corners = corners @ affine[:3, :3].T + affine[:3, 3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = [max(1, round(length)) for length in (high - low) / spacing]
    origin = [start + (end - start - (n - 1) * spacing) / 2 for start, end, n in zip(low, high, shape)]
    if size:
        moved = [(n - size) // 2 if n > size else -((size - n + 1) // 2) for n in shape]
        origin, shape = [start + spacing * by for start, by in zip(origin, moved)], [size] * 3
    return Lattice(tuple(float(f"{start:.7g}") for start in origin), spacing, tuple(shape))


class SpaceResampler:
    """Resampling of the frames of one grid to a lattice.

    Args:
        grid: of the frames.
        lattice: of the result.

    Attributes:
        inside: which voxels of the lattice lie in the field of view, (x, y, z).
    """

    def __init__(self, grid: Grid, lattice: Lattice) -> None:
        self.lattice = lattice
        self.matrix = np.linalg.inv(in_ras(grid)) @ lattice.affine  # from lattice index to source index
        reach = np.abs(self.matrix[:3, :3]) * np.array(lattice.shape)
        self.axes = [int(axis) for axis in reach.argmax(axis=0)]  # source axis of each axis of the lattice
        leaning = reach.copy()
        leaning[self.axes, range(3)] = 0
        self.parallel = sorted(self.axes) == [0, 1, 2] and bool((leaning < TURNED).all())
        self.positions = [self._along(axis) for axis in range(3)] if self.parallel else []
        self.inside = self._inside(grid.size)

    def _along(self, axis: int) -> NDArray[np.float64]:
        """Return the positions on the source axis that an axis of the lattice follows."""
        source, middle = self.axes[axis], [(length - 1) / 2 for length in self.lattice.shape]
        others = sum(self.matrix[source, other] * middle[other] for other in range(3) if other != axis)
        steps = np.arange(self.lattice.shape[axis])
        return np.asarray(self.matrix[source, axis] * steps + others + self.matrix[source, 3])

    def _inside(self, size: Sequence[int]) -> NDArray[np.bool_]:
        if self.parallel:
            lines = [within(self.positions[axis], size[self.axes[axis]]) for axis in range(3)]
            return np.asarray(lines[0][:, None, None] & lines[1][:, None] & lines[2])
        inside = np.ones(self.lattice.shape, dtype=bool)
        indices = np.ogrid[tuple(slice(length) for length in self.lattice.shape)]
        for row, length in zip(self.matrix[:3], size):
            inside &= within(sum(factor * index for factor, index in zip(row, indices)) + row[3], length)
        return inside

    def __call__(self, frames: Frames) -> Frames:
        """Return the frames on the lattice, zero outside of the field of view."""
        if self.parallel:
            frames = frames.transpose(*self.axes, 3)
            for axis in sorted(range(3), key=lambda axis: self.lattice.shape[axis] / frames.shape[axis]):
                frames = along_axis(frames, axis, self.positions[axis])
            return frames
        found = np.zeros((*self.lattice.shape, frames.shape[3]), dtype=np.float32)
        for number in range(frames.shape[3]):
            frame = ndimage.affine_transform(
                frames[..., number], self.matrix[:3, :3], self.matrix[:3, 3], self.lattice.shape, np.float32, order=1,
                mode="nearest",
            )  # fmt: skip
            np.copyto(found[..., number], frame, where=self.inside)
        return found


def within(positions: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    """Return which positions lie in the field of view of an axis, whose voxels reach half a voxel beyond centres."""
    return np.asarray((positions > -0.5 - ON_A_VOXEL) & (positions < length - 0.5 + ON_A_VOXEL))


def along_axis(frames: Frames, axis: int, positions: NDArray[np.float64]) -> Frames:
    """Interpolate along an axis; samples outside of the field of view are zero.

    Args:
        frames: values.
        axis: of the values.
        positions: of the samples, in indices of that axis.
    """
    length = frames.shape[axis]
    at = np.clip(positions, 0, length - 1)
    at = np.where(np.abs(at - np.rint(at)) < ON_A_VOXEL, np.rint(at), at)
    low = np.floor(at).astype(np.intp)
    weight = (at - low).astype(np.float32)
    found = frames.take(low, axis)
    if weight.any():
        shaped = weight.reshape([-1 if each == axis else 1 for each in range(frames.ndim)])
        above = frames.take(np.minimum(low + 1, length - 1), axis)
        above -= found
        above *= shaped
        found += above
    if not (inside := within(positions, length)).all():
        found[(slice(None),) * axis + (~inside,)] = 0
    return found


# -------------------------------------------------------------------------------------------------------------- time


def steps_of_time(frames: int, repetition_time: float, wanted: float) -> NDArray[np.float64]:
    """Return where the stored frames lie among those of the run, each of which lasts one repetition time.

    Args:
        frames: of the run.
        repetition_time: seconds between them.
        wanted: seconds between stored frames.
    """
    count = max(1, round(frames * repetition_time / wanted))
    positions = (np.arange(count) + 0.5) * (wanted / repetition_time) - 0.5
    return np.clip(positions, 0, frames - 1)


def resampled_in_time(blocks: Iterator[Frames], positions: NDArray[np.float64], count: int) -> Iterator[Frames]:
    """Yield frames at positions in time, `count` at once; all blocks are read, also those behind the last position.

    Args:
        blocks: successive frames.
        positions: ascending, in indices of the frames.
        count: frames of a result.
    """
    held, first = next(blocks), 0
    for start in range(0, len(positions), count):
        wanted = positions[start : start + count]
        while first + held.shape[3] <= math.ceil(wanted[-1]):
            done = min(max(math.floor(wanted[0]) - first, 0), held.shape[3])
            held, first = np.concatenate([held[..., done:], next(blocks)], axis=3), first + done
        yield along_axis(held, 3, wanted - first)
    for _ in blocks:
        pass
