"""A case as a small cube of ranks: what is left of an image without its scale, its size and its details."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

Floats = NDArray[np.float32]

SIDE = 16
"""Voxels of the cube along each axis."""
CONSTANT, AIR, NOWHERE = BACKGROUNDS = ("constant", "air", "none")
"""Backgrounds: one value around the brain or head; noise around it; none, where images are cut out of a head."""
_REDUCED = 48
_OUTSIDE = 0.005  # share of the foreground that may lie outside of the box on each side
_MOSTLY = 0.75


@dataclass(frozen=True)
class Coarse:
    """The foreground of a case, stretched to a cube.

    Attributes:
        ranks: (C, SIDE, SIDE, SIDE), ranks of the values in the foreground from 0 to 1, 0 outside of it.
        inside: (SIDE, SIDE, SIDE), the foreground.
        extents: of the foreground's box along each axis, as shares of the image.
        share: of the image that is foreground.
        small: (C, x, y, z), the images on the grid of `reduced`.
        mask: foreground on that grid.
    """

    ranks: Floats
    inside: NDArray[np.bool_]
    extents: tuple[float, ...]
    share: float
    small: Floats
    mask: NDArray[np.bool_]


def border_of(image: NDArray[Any]) -> NDArray[Any]:
    """Return the values on the faces of an image."""
    faces = (np.take(image, at, axis).ravel() for axis in range(image.ndim) for at in (0, -1) if image.shape[axis] > 1)
    return np.concatenate(list(faces))


def background_of(image: NDArray[Any]) -> str:
    """Return which of `BACKGROUNDS` an image has."""
    border = border_of(image)
    if np.mean(border == np.median(border)) > 0.5:
        return CONSTANT
    return AIR if np.mean(border < otsu(reduced(image))) > _MOSTLY else NOWHERE


def otsu(image: Floats) -> float:
    """Return Otsu's threshold of an image, of which the brightest percent counts no further."""
    low, high = np.percentile(image, (0.0, 99.0))
    counts, edges = np.histogram(np.clip(image, low, high), bins=128)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * (total - below))
    return float(edges[1:][np.nanargmax(np.nan_to_num(between, posinf=0.0))])


def reduction(shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many voxels along each axis become one of a reduced image."""
    return tuple(max(1, size // _REDUCED) for size in shape)


def reduced(image: NDArray[Any]) -> Floats:
    """Return means over blocks, about 48 to 95 along each axis."""
    steps = reduction(image.shape)
    whole = tuple(size // step for size, step in zip(image.shape, steps))
    cut = image[tuple(slice(0, count * step) for count, step in zip(whole, steps))]
    blocks = cut.reshape([each for pair in zip(whole, steps) for each in pair])
    means: Floats = blocks.mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)
    return means


def coarse(images: Sequence[NDArray[Any]], background: str) -> Coarse:
    """Return the coarse form of the images of a case, which share a grid.

    Args:
        images: a 3-D array per channel.
        background: one of `BACKGROUNDS`: that of the cohort, so that all cases are treated alike.
    """
    small = np.stack([reduced(image) for image in images])
    mask = _foreground(images, small, background)
    low, high = _box(mask)
    points = [np.linspace(start, end, 4 * SIDE + 1)[1::2] for start, end in zip(low, high)]
    at = np.stack(np.meshgrid(*points, indexing="ij"))
    inside = _sampled(mask.astype(np.float32), at) > 0.5
    if not inside.any():
        inside[:] = True
    ranks = np.zeros((len(small), *inside.shape), np.float32)
    for channel, image in enumerate(small):
        ranks[channel][inside] = rankdata(_sampled(image, at)[inside]) / inside.sum()
    extents = tuple(float((end - start) / size) for start, end, size in zip(low, high, mask.shape))
    return Coarse(ranks, inside, extents, float(mask.mean()), small, mask)


def _foreground(images: Sequence[NDArray[Any]], small: Floats, background: str) -> NDArray[np.bool_]:
    shape = small[0].shape
    if background == CONSTANT:
        found = np.zeros(shape, bool)
        for image, each in zip(images, small):
            empty = float(np.median(border_of(image)))
            found |= np.abs(each - empty) > 1e-3 * max(float(np.ptp(each)), 1e-12)
    elif background == AIR:
        mean = np.mean([_scaled(each) for each in small], axis=0)
        found = ndimage.binary_fill_holes(mean > otsu(mean))
    else:
        found = np.ones(shape, bool)
    return found if found.any() else np.ones(shape, bool)


def _scaled(image: Floats) -> Floats:
    low, high = np.percentile(image, (1.0, 98.0))
    return np.clip((image - low) / max(float(high - low), 1e-12), 0.0, 1.0).astype(np.float32)


def _box(mask: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Return where the foreground begins and ends along each axis, in voxels' edges, all but a thin tail of it."""
    low, high = [], []
    for axis in range(mask.ndim):
        counts = np.cumsum(mask.sum(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        shares = counts / counts[-1]
        low.append(float(np.searchsorted(shares, _OUTSIDE)))
        high.append(float(np.searchsorted(shares, 1 - _OUTSIDE) + 1))
    return low, high


def _sampled(image: Floats, at: NDArray[np.float64]) -> Floats:
    """Return means of eight samples for each voxel of the cube, at positions counted from the edge of the image."""
    values = ndimage.map_coordinates(image, at - 0.5, order=1, mode="nearest")
    means: Floats = values.reshape(SIDE, 2, SIDE, 2, SIDE, 2).mean(axis=(1, 3, 5))
    return means


# ---------------------------------------------------------------------------------------------------- orientations

Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""An order of the axes, and those of the ordered axes that are mirrored."""


def turns() -> Iterator[Turn]:
    """Yield the 48 ways in which a cube can be stored, the given one first."""
    for order in permutations(range(3)):
        for mirrored in product((False, True), repeat=3):
            yield order, tuple(axis for axis in range(3) if mirrored[axis])


def turned(cube: Floats, turn: Turn) -> Floats:
    """Return (..., x, y, z) in another order of the axes, some of them mirrored."""
    order, mirrored = turn
    first = cube.ndim - 3
    moved = cube.transpose([*range(first), *(first + axis for axis in order)])
    return np.flip(moved, tuple(first + axis for axis in mirrored)) if mirrored else moved
