"""Distances between two sets of grid points, without a distance transform of the whole volume."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]


def nearest_distances(source: Mask, target: Mask, *, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the distance in mm from every point of `source` to the nearest point of `target`.

    A k-d tree costs time for the points alone, a distance transform for the whole box around them. Points of both sets
    cost nothing.

    Args:
        source: mask of the points to start from.
        target: mask on the same grid with at least one point.
        spacing: step of the grid in mm along each axis.

    Returns:
        One distance per point, in the order of `np.argwhere(source)`.

    Example:
        >>> source, target = np.zeros((2, 5, 5, 5), dtype=bool)
        >>> source[0, 0, :2] = target[3, 0, 0] = True
        >>> nearest_distances(source, target, spacing=(1, 1, 4))
        array([3., 5.])
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
    """Return the smallest box that holds a mask, widened by `margin` voxels inside the volume.

    Args:
        mask: a mask with at least one voxel.
        margin: voxels to add on every side.

    Example:
        >>> mask = np.zeros((9, 9), dtype=bool)
        >>> mask[2:4, 8] = True
        >>> box_of(mask, margin=1)
        (slice(1, 5, None), slice(7, 9, None))
    """
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
    """Return the smallest box that holds all boxes, at least one.

    Example:
        >>> around([(slice(1, 3), slice(4, 5)), (slice(2, 7), slice(0, 1))])
        (slice(1, 7, None), slice(0, 5, None))
    """
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
