"""Time courses of the regions of a run, and what is taken out of them before they are correlated.

Shapes: courses (T, R) of T frames and R regions, confounds (T, C).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bdfm_nnunet.data.region_maps import Regions
from bdfm_nnunet.images.sequence_files import CHUNK_FRAMES, SequenceHeader

Array = NDArray[np.float64]
_FRAMES_AT_ONCE = 8 * CHUNK_FRAMES


class Runs(Protocol):
    """Stored runs, such as `data.sequence_cases.SequenceCases`."""

    def header(self, case: str) -> SequenceHeader:
        """Return what is known of a run."""
        ...

    def mask(self, case: str, box: Sequence[Sequence[int]] | None = None) -> NDArray[np.bool_]:
        """Return the brain mask of a run, or the part of it in a box."""
        ...

    def clip(
        self, case: str, start: int, frames: int, box: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float32]:
        """Return successive frames of a run, (x, y, z, t)."""
        ...


def region_sizes(runs: Runs, case: str, regions: Regions) -> NDArray[np.int64]:
    """Return the number of voxels of each region in the brain of a run, (R + 1,), the first being those of no region.

    Args:
        runs: the runs.
        case: one of them.
        regions: on its grid.
    """
    return np.bincount(regions[runs.mask(case)], minlength=int(regions.max()) + 1)


def region_courses(runs: Runs, case: str, regions: Regions, kept: Sequence[int]) -> tuple[Array, Array]:
    """Return the mean over the voxels of each region in the brain, (T, R), and over the whole brain, (T,).

    Args:
        runs: the runs.
        case: one of them.
        regions: on its grid.
        kept: numbers of the regions whose courses are wanted, none of them empty.
    """
    header = runs.header(case)
    box, frames = header.brain_box, header.shape[3]
    inside = runs.mask(case, box)
    mean = _averaging(regions[tuple(slice(*pair) for pair in box)][inside], kept)
    parts = []
    for start in range(0, frames, _FRAMES_AT_ONCE):
        clip = runs.clip(case, start, min(_FRAMES_AT_ONCE, frames - start), box)
        parts.append((mean @ clip[inside].astype(np.float64)).T)
    courses = np.concatenate(parts)
    return courses[:, :-1], courses[:, -1]


def _averaging(regions: NDArray[np.int32], kept: Sequence[int]) -> sparse.csr_array:
    """Return the matrix from voxels to the means of regions and, last, of all voxels."""
    row_of = np.full(int(regions.max(initial=0)) + 2, -1)
    row_of[np.asarray(kept, dtype=np.intp)] = np.arange(len(kept))
    rows = row_of[regions]
    voxels = np.flatnonzero(rows >= 0)
    everyone = np.arange(len(regions))
    at = np.concatenate([rows[voxels], np.full(len(regions), len(kept))]), np.concatenate([voxels, everyone])
    ones = sparse.csr_array((np.ones(len(at[0])), at), shape=(len(kept) + 1, len(regions)))
    return sparse.csr_array(sparse.diags_array(1 / ones.sum(axis=1)) @ ones)


def drift(frames: int, seconds: float, period: float) -> Array:
    """Return the mean, a straight line, and cosines of more than `period` seconds, (T, C).

    The cosines are those of a discrete cosine transform, as SPM and fMRIPrep take them.

    Args:
        frames: T.
        seconds: between frames.
        period: shortest period that counts as drift, s; 0 leaves the cosines out.

    Example:
        >>> drift(100, 2.0, 128.0).shape, drift(100, 2.0, 0).shape
        ((100, 5), (100, 2))
    """
    steps = np.arange(frames)
    count = int(2 * frames * seconds / period) if period else 0
    cosines = [np.cos(np.pi * order * (steps + 0.5) / frames) for order in range(1, min(count, frames - 2) + 1)]
    return np.stack([np.ones(frames), np.linspace(-1, 1, frames), *cosines], axis=1)


def without(courses: Array, confounds: Array) -> Array:
    """Return what a linear model of the confounds leaves of the courses.

    Args:
        courses: (T, R).
        confounds: (T, C), linearly dependent columns allowed.

    Example:
        >>> time = np.arange(5.0)
        >>> bool(np.abs(without((3 * time + 1)[:, None], drift(5, 1.0, 0))).max() < 1e-9)
        True
    """
    scale = np.maximum(np.linalg.norm(confounds, axis=0), 1e-300)
    axes, strengths, _ = np.linalg.svd(confounds / scale, full_matrices=False)
    axes = axes[:, strengths > 1e-9 * strengths.max(initial=0)]
    return courses - axes @ (axes.T @ courses)
