"""Regions of 4-D runs: an atlas on the grid of a run, or blocks of equal size that fill a brain mask.

Shapes: region maps (x, y, z), 0 outside of all regions, regions numbered from 1 to R.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.grids import Grid
from bdfm_nnunet.images.label_values import whole_numbers
from bdfm_nnunet.images.volumes import read_volume

MOST_REGIONS = 2000
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BESIDE = 1e-3
"""mm by which all samples are moved, so that one halfway between two voxels takes the same one in any orientation."""

Regions = NDArray[np.int32]


@dataclass(frozen=True)
class Atlas:
    """A label map of regions.

    Attributes:
        path: the file.
        regions: numbers from 1 on, 0 for what is no region, (x, y, z).
        values: label value in the file of each region, R.
        grid: positions of the voxels.
    """

    path: Path
    regions: Regions
    values: tuple[int, ...]
    grid: Grid

    def on(self, affine: Sequence[Sequence[float]] | NDArray[np.float64], shape: Sequence[int]) -> Regions:
        """Return the region at each voxel of another grid, the nearest voxel's; 0 outside of the atlas.

        Args:
            affine: from voxel indices to mm in RAS, 4 x 4, as the header of a stored run tells it.
            shape: voxels of the grid, (x, y, z).

        Example:
            >>> atlas = Atlas(Path("a.nii"), np.array([[[1]], [[2]]]), (5, 9), Grid((2, 1, 1), (4.0, 4.0, 4.0),
            ...     (0.0, 0.0, 0.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)))
            >>> atlas.on(np.diag([2.0, 2, 2, 1]), (5, 1, 1))[:, 0, 0].tolist()
            [1, 2, 2, 0, 0]
        """
        moved = np.array(affine, dtype=np.float64)
        moved[:3, 3] += _BESIDE
        matrix = np.linalg.inv(_LPS @ self.grid.affine) @ moved
        steps = np.ogrid[tuple(slice(length) for length in shape[:3])]
        inside: Any = np.ones(tuple(shape[:3]), dtype=bool)
        nearest = []
        for row, length in zip(matrix[:3], self.grid.size, strict=True):
            places = np.rint(sum(factor * step for factor, step in zip(row, steps, strict=False)) + row[3])
            inside &= (places >= 0) & (places < length)
            nearest.append(np.clip(places, 0, length - 1).astype(np.intp))
        return np.where(inside, self.regions[tuple(nearest)], 0).astype(np.int32)


def read_atlas(path: Path) -> Atlas:
    """Read a label map whose values above 0 are regions.

    Raises:
        InputError: the file cannot be read, is not 3-D, or does not hold 2 to `MOST_REGIONS` whole numbers above 0.
    """
    volume = read_volume(path, str(path), by_nibabel=True)
    labels = whole_numbers(volume)
    found = np.unique(labels)
    if found[0] < 0 or not 2 <= np.count_nonzero(found) <= MOST_REGIONS:
        raise InputError(
            f"{path} has {np.count_nonzero(found)} label values from {found[0]} to {found[-1]}, expected 0 around 2 to "
            f"{MOST_REGIONS} regions with values above 0: give the label map of an atlas"
        )
    values = found[found > 0]
    regions = np.where(labels > 0, np.searchsorted(values, labels) + 1, 0).astype(np.int32)
    return Atlas(path, regions, tuple(int(value) for value in values), volume.grid)


def blocks_of(mask: NDArray[np.bool_], count: int) -> Regions:
    """Divide a mask into blocks of equal size: each part is cut across its longest axis until there are enough.

    Args:
        mask: (x, y, z).
        count: number of blocks.

    Raises:
        InputError: the mask has fewer voxels than blocks.

    Example:
        >>> np.unique(blocks_of(np.ones((4, 2, 3), dtype=bool), 6), return_counts=True)[1].tolist()
        [4, 4, 4, 4, 4, 4]
    """
    places = np.argwhere(mask)
    if len(places) < count:
        raise InputError(f"a brain mask of {len(places)} voxels has no {count} blocks: ask for fewer with --blocks")
    regions = np.zeros(mask.shape, dtype=np.int32)
    waiting, number = [(places, count)], 0
    while waiting:
        part, wanted = waiting.pop()
        if wanted == 1:
            number += 1
            regions[tuple(part.T)] = number
            continue
        part = part[np.argsort(part[:, np.ptp(part, axis=0).argmax()], kind="stable")]
        first = wanted // 2
        cut = round(len(part) * first / wanted)
        waiting += [(part[cut:], wanted - first), (part[:cut], first)]
    return regions
