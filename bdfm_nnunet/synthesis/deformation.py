"""Deformations of label maps: random smooth ones, so that one map gives many heads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.data.phantom import Field, Grid, lattice_shape, rotation, smooth_field

_STEP = 32.0
_SLAB = 16
_LARGEST = 0.4 * _STEP
"""Knots that move no further than this keep the field from folding."""


@dataclass(frozen=True)
class Deformation:
    """Where a voxel of the new map lies in the old one.

    Attributes:
        linear: 3x3 matrix, about the centre.
        warp: (3, ...) lattice of cubic B-spline weights in mm.
        extents: of the lattice, mm.
    """

    linear: Field
    warp: Field
    extents: tuple[float, ...]


def extents_of(grid: Grid) -> tuple[float, ...]:
    """Return the size of a grid in mm."""
    return tuple(count * step for count, step in zip(grid.shape, grid.spacing))


def draw_deformation(rng: np.random.Generator, grid: Grid, *, warp: float) -> Deformation:
    """Draw a rotation by some degrees, a change of size by some percent and a smooth warp.

    Args:
        rng: the generator.
        grid: of the map.
        warp: standard deviation of the warp, mm; 0 leaves the map where it is.
    """
    extents = extents_of(grid)
    strength = min(1.0, warp / 3.0)
    scales = np.diag(np.exp(rng.normal(0, 0.04 * strength, 3)))
    shear = np.eye(3) + np.triu(rng.normal(0, 0.02 * strength, (3, 3)), 1)
    turned = rotation(rng.normal(0, 0.06 * strength, 3))
    lattice = np.clip(rng.normal(0, 1.7 * warp, (3, *lattice_shape(_STEP, extents))), -_LARGEST, _LARGEST)
    return Deformation((turned @ scales @ shear).astype(np.float32), lattice.astype(np.float32), extents)


def deformed(codes: NDArray[np.uint8], grid: Grid, deformation: Deformation) -> NDArray[np.uint8]:
    """Return a deformed label map; outside of the old one there is background.

    Example:
        >>> grid = Grid((8, 9, 10), (1.0, 1.0, 1.0))
        >>> codes = np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)
        >>> none = draw_deformation(np.random.default_rng(0), grid, warp=0.0)
        >>> bool((deformed(codes, grid, none) == codes).all())
        True
    """
    first, *others = grid.axes()
    slabs = []
    for start in range(0, len(first), _SLAB):  # the points of a whole map take 12 times the memory of its labels
        axes = [first[start : start + _SLAB], *others]
        points = np.tensordot(deformation.linear, np.stack(np.meshgrid(*axes, indexing="ij")), axes=1)
        for axis, lattice in enumerate(deformation.warp):
            points[axis] += smooth_field(lattice, _STEP, axes, deformation.extents)
        slabs.append(sampled(codes, grid, points))
    return np.concatenate(slabs)


def sampled(codes: NDArray[np.uint8], grid: Grid, points: Field) -> NDArray[np.uint8]:
    """Return the labels at points in mm from the centre, (3, ...); outside 0."""
    places = np.empty_like(points)
    for axis, (count, step) in enumerate(zip(grid.shape, grid.spacing)):
        places[axis] = points[axis] / step + (count - 1) / 2
    found: NDArray[np.uint8] = ndimage.map_coordinates(codes, places, order=0, mode="constant", cval=0)
    return found
