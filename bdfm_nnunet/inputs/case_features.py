"""Numbers that tell a case of one kind from a case of another: intensities, tissue order, size, background."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from bdfm_nnunet.images.volumes import Volume
from bdfm_nnunet.inputs.coarse_images import SIDE, Floats, Turn, border_of, coarse, reduction, turned

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
CANONICAL = "canonical"
_DEPTHS = (1, 2, 3, 5)
_RANKS = (0.2, 0.4, 0.6, 0.8, 0.95, 0.99, 1.0)
_TAILS = (0.001, 0.01, 0.99, 0.999)
SAME = -6.0  # logarithm of a mean difference of ranks; two files with one image have at most that
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class CaseFeatures:
    """One case.

    Attributes:
        ranks: (C, SIDE, SIDE, SIDE), see `Coarse`.
        intensities: (C, F): shape of the histogram in the foreground, and ranks by depth below its surface.
        order: (C, C, F): mean rank of the second channel where the first has one of `_RANKS`, and the tails of their
            difference, in which contrast agent shows.
        geometry: logarithms of spacing (mm) and of the foreground's box (mm), along each axis.
        surroundings: logarithm of the foreground's volume, share of the border that is one value, and how dark it is.
        orientation: of the axes as the file states it, for instance `LPS`; `CANONICAL` where nnU-Net reorients.
    """

    ranks: Floats
    intensities: NDArray[np.float64]
    order: NDArray[np.float64]
    geometry: NDArray[np.float64]
    surroundings: NDArray[np.float64]
    orientation: str

    def of_files(self, files: Sequence[int]) -> "CaseFeatures":
        """Return the case whose channels are some of these, in any order; its foreground and borders stay."""
        at = list(files)
        ranks, intensities, order = self.ranks[at], self.intensities[at], self.order[at][:, at]
        return replace(self, ranks=ranks, intensities=intensities, order=order)

    def turned(self, turn: Turn) -> "CaseFeatures":
        """Return the case as if its axes were stored in another way; sizes stay what the file says."""
        return replace(self, ranks=turned(self.ranks, turn))


def features_of(volumes: Sequence[Volume], *, background: str, canonical: bool) -> CaseFeatures:
    """Return the features of a case.

    Args:
        volumes: its channels, on one grid.
        background: that of the cohort, see `background_of`.
        canonical: whether nnU-Net's reader brings the axes into one order first.
    """
    images, spacing = arrays_of(volumes, canonical=canonical)
    shape = images[0].shape
    cube = coarse(images, background)
    depth = _depths(cube.inside)
    intensities = [
        np.concatenate([_histogram(image, cube.mask), _by_depth(ranks, depth)])
        for image, ranks in zip(images, cube.ranks)
    ]
    box = np.array([share * size * step for share, size, step in zip(cube.extents, shape, spacing)])
    volume = cube.share * float(np.prod([size * step for size, step in zip(shape, spacing)]))
    borders = np.mean([_border(image) for image in images], axis=0)
    return CaseFeatures(
        ranks=cube.ranks,
        intensities=np.array(intensities),
        order=_pairs(cube.small[:, cube.mask].astype(np.float64)),
        geometry=np.log([*spacing, *np.maximum(box, 1e-3)]),
        surroundings=np.array([np.log(max(volume, 1e-3)), *borders]),
        orientation=CANONICAL if canonical else volumes[0].grid.orientation,
    )


def arrays_of(volumes: Sequence[Volume], *, canonical: bool) -> tuple[list[NDArray[Any]], tuple[float, ...]]:
    """Return arrays and spacing (mm) in the order of axes in which nnU-Net's reader gives them."""
    images, spacing = [each.array for each in volumes], volumes[0].grid.spacing
    if canonical:
        ornt = nib.orientations.io_orientation(np.diag([-1.0, -1.0, 1.0, 1.0]) @ volumes[0].grid.affine)
        images = [nib.orientations.apply_orientation(image, ornt) for image in images]
        spacing = tuple(spacing[int(np.flatnonzero(ornt[:, 0] == axis)[0])] for axis in range(3))
    return images, spacing


def _histogram(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return quantiles of the foreground without their position and scale; long tails are compressed."""
    stride = max(1, round((image.size / _MOST_VALUES) ** (1 / 3)))
    strides = [min(stride, size) for size in image.shape]
    at = [
        np.arange(step // 2, count * by, step) for count, by, step in zip(mask.shape, reduction(image.shape), strides)
    ]
    inside = mask[np.ix_(*(each // by for each, by in zip(at, reduction(image.shape))))]
    values = np.quantile(image[np.ix_(*at)][inside].astype(np.float64) if inside.any() else image, QUANTILES)
    low, middle, high = (values[QUANTILES.index(each)] for each in (0.1, 0.5, 0.9))
    scaled = (values - middle) / max(float(high - low), 1e-12)
    return _compressed(scaled)


def _depths(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    return depth


def _by_depth(ranks: Floats, depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean rank in shells below the surface, the last of which is all that lies deeper."""
    edges = (0.5, *(each + 0.5 for each in _DEPTHS), SIDE)
    shells = [ranks[(depth > low) & (depth <= high)] for low, high in pairwise(edges)]
    return np.array([each.mean() if each.size else 0.5 for each in shells], dtype=np.float64)


def _pairs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (C, C, F): how the second of two channels behaves where the first is dark or bright, and beyond it.

    Args:
        values: (C, N), of the foreground.
    """
    count, voxels = values.shape
    ranks = np.stack([rankdata(each) / voxels for each in values])
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)[..., None]
    scaled = (values - middle) / np.maximum(high - low, 1e-12)
    pairs = np.zeros((count, count, len(_RANKS) + len(_TAILS) + 1))
    for first in range(count):
        part = np.searchsorted(_RANKS, ranks[first], side="left").clip(0, len(_RANKS) - 1)
        sizes = np.maximum(np.bincount(part, minlength=len(_RANKS)), 1)
        for second in range(count):
            means = np.bincount(part, ranks[second], minlength=len(_RANKS)) / sizes
            tails = np.quantile(scaled[second] - scaled[first], _TAILS) if first != second else np.zeros(len(_TAILS))
            apart = np.log(max(float(np.abs(ranks[second] - ranks[first]).mean()), np.exp(SAME)))
            pairs[first, second] = [*means, *_compressed(tails), apart]
    return pairs


def _compressed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _border(image: NDArray[Any]) -> tuple[float, float]:
    border = border_of(image)
    low, high = np.percentile(image[::2, ::2, ::2], (1.0, 99.0))
    middle = float(np.median(border))
    return float(np.mean(border == middle)), (middle - float(low)) / max(float(high - low), 1e-12)
