"""Drawing images from label maps: contrasts, partial volume, bias field, resolution, noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.data.phantom import Field, Grid, lattice_shape, smooth_field
from bdfm_nnunet.synthesis.deformation import extents_of
from bdfm_nnunet.synthesis.tissue_tables import LESION_PARTS

_BIAS_STEP = 80.0
_TEXTURE_STEP = 9.0
_TEXTURE = 0.2


@dataclass(frozen=True)
class Contrast:
    """The brightness of the labels in one channel.

    Attributes:
        means: per code; 0 for the background.
        spreads: standard deviation per code.
    """

    means: Field
    spreads: Field


def draw_contrast(
    rng: np.random.Generator, tissues: Sequence[str], levels: Mapping[str, float] | None = None
) -> Contrast:
    """Draw the brightness of every code; labels of one tissue are nearly alike.

    Args:
        rng: the generator.
        tissues: tissue per code; empty for background.
        levels: tissue -> usual brightness; None for any contrast. Tissues that it lacks have any brightness.

    Example:
        >>> contrast = draw_contrast(np.random.default_rng(0), ["", "white", "grey"], {"white": 1.0, "grey": 0.7})
        >>> contrast.means.round(2)
        array([0.  , 1.04, 0.65], dtype=float32)
    """
    means, spreads = np.zeros(len(tissues)), np.zeros(len(tissues))
    drawn: dict[str, tuple[float, float]] = {}
    for code, tissue in enumerate(tissues):
        anything, jitter, spread = rng.uniform(0.05, 1.6), np.exp(rng.normal(0, 0.06)), rng.uniform(0.02, 0.07)
        usual = None if levels is None else levels.get(tissue)
        own = np.exp(rng.normal(0, 0.015))
        if tissue:
            level, deviation = drawn.setdefault(tissue, (anything if usual is None else usual * jitter, spread))
            means[code], spreads[code] = level * own, deviation
    return Contrast(means.astype(np.float32), spreads.astype(np.float32))


def draw_signal(
    rng: np.random.Generator, codes: NDArray[np.uint8], grid: Grid, contrast: Contrast, *, bias: float
) -> Field:
    """Draw an image without noise of the scanner: values per label, partial volume and bias field.

    Args:
        rng: the generator.
        codes: the map; parts of lesions are the last codes of the contrast and have a coarse texture.
        grid: its voxels.
        contrast: brightness of the codes.
        bias: standard deviation of the logarithm of the bias field.
    """
    image = contrast.spreads[codes] * rng.standard_normal(codes.shape, dtype=np.float32) + contrast.means[codes]
    blur = rng.uniform(0.4, 0.8)
    axes, extents = grid.axes(), extents_of(grid)
    texture = rng.normal(0, _TEXTURE, lattice_shape(_TEXTURE_STEP, extents)).astype(np.float32)
    lattice = rng.normal(0, bias, lattice_shape(_BIAS_STEP, extents)).astype(np.float32)
    sick = codes >= len(contrast.means) - len(LESION_PARTS)
    if sick.any():
        image[sick] *= (1 + smooth_field(texture, _TEXTURE_STEP, axes, extents))[sick]
    blurred: Field = ndimage.gaussian_filter(image, blur)
    return blurred * np.exp(smooth_field(lattice, _BIAS_STEP, axes, extents))


def draw_slices(rng: np.random.Generator, image: Field, grid: Grid, *, thickest: float) -> Field:
    """Blur half of the images along one axis, as if they were acquired in thick slices and interpolated."""
    chosen, axis, share = rng.uniform() < 0.5, int(rng.integers(3)), rng.uniform()
    step = grid.spacing[axis]
    thickness = step + share * (thickest - step)
    if not chosen or thickness <= step:
        return image
    smooth = ndimage.gaussian_filter1d(image, 0.4 * thickness / step, axis=axis)
    counts, steps = list(grid.shape), list(grid.spacing)
    counts[axis], steps[axis] = int(np.ceil(counts[axis] * step / thickness)), thickness
    coarse = Grid((counts[0], counts[1], counts[2]), (steps[0], steps[1], steps[2]))
    return resampled(resampled(smooth, grid, coarse), coarse, grid)


def draw_noise(rng: np.random.Generator, image: Field, *, largest: float) -> Field:
    """Add the noise of magnitude images, of a strength up to `largest`."""
    strength = np.float32(rng.uniform(0.1, 1.0) * largest)
    real, imaginary = (strength * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    noisy: Field = np.hypot(image + real, imaginary)
    return noisy


def resampled(volume: Field, grid: Grid, target: Grid) -> Field:
    """Return a volume on another grid with the same centre, interpolated linearly.

    Example:
        >>> fine, coarse = Grid((1, 1, 4), (1.0, 1.0, 1.0)), Grid((1, 1, 2), (1.0, 1.0, 2.0))
        >>> resampled(np.array([[[0, 1, 2, 3]]], np.float32), fine, coarse).tolist()
        [[[0.5, 2.5]]]
    """
    ratios = np.array(target.spacing) / np.array(grid.spacing)
    offset = (np.array(grid.shape) - 1) / 2 - ratios * (np.array(target.shape) - 1) / 2
    found: Field = ndimage.affine_transform(
        volume, ratios, offset=offset, output_shape=target.shape, order=1, mode="nearest"
    )
    return found
