"""Distances between two sets of grid points, without a transform of the whole volume."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]


def nearest_distances(source: Mask, target: Mask, *, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Distance in mm from every point of `source` to the nearest of `target`, in the order of `np.argwhere(source)`.

    A tree over the points needs time for the surfaces alone, where a distance transform needs it for the box around
    them; points that both have need none.

    Args:
        source: the points to start from.
        target: points of the same grid, at least one.
        spacing: step of the grid in mm along each axis.
    """
    places = np.flatnonzero(source)
    apart = ~target.ravel()[places]
    distances = np.zeros(len(places))
    if apart.any():
        points, others = (_coordinates(flat, source.shape) for flat in (places[apart], np.flatnonzero(target)))
        steps = np.asarray(spacing, dtype=np.float64)
        tree = cKDTree(others * steps, balanced_tree=False, compact_nodes=False)
        nearest = others[tree.query(points * steps)[1]]
        # From the difference of the indices, as a distance transform does: equal to it in the last digit.
        squares = ((points - nearest) * steps) ** 2
        distances[apart] = np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2])
    return distances


def _coordinates(places: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.stack(np.unravel_index(places, shape), axis=1)


def box_of(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds a mask with at least one voxel, widened by `margin` voxels inside the volume."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        inside = mask[tuple(box)]
        kept = np.flatnonzero(inside.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(kept[0]), int(kept[-1]) + 1))
    return tuple(
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(box, mask.shape, strict=True)
    )


def around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds all boxes, at least one."""
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
