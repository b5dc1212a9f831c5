"""Foreground of unlabelled images: the voxels that count where nobody has drawn labels."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

FILLED = 0.9
"""Share of non-zero voxels from which on the background cannot be zero: brains fill much less of their image."""


def foreground_mask(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Find the head or brain on images of one grid, (x, y, z), as booleans.

    Where the background is zero, as in skull-stripped releases, it is whatever is not zero in any of the images;
    elsewhere the largest piece of the first image above Otsu's threshold, without holes.
    """
    nonzero = nonzero_mask(arrays)
    return nonzero if background_is_zero(nonzero) else largest_bright_piece(arrays[0])


def nonzero_mask(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the voxels that are not zero in any of the images."""
    mask = arrays[0] != 0
    for array in arrays[1:]:
        mask |= array != 0
    return mask


def background_is_zero(nonzero: np.ndarray) -> bool:
    """Return whether zeros can be the background, by the share of voxels that are not zero."""
    return bool(np.count_nonzero(nonzero) <= FILLED * nonzero.size)


def largest_bright_piece(array: np.ndarray) -> np.ndarray:
    """Return the largest piece of an image above Otsu's threshold, without holes, (x, y, z)."""
    image = sitk.GetImageFromArray(array.transpose().astype(np.float32))
    bright = sitk.OtsuThreshold(image, 0, 1)
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(bright), sortByObjectSize=True)
    return sitk.GetArrayFromImage(sitk.BinaryFillhole(pieces == 1)).transpose().astype(bool)
