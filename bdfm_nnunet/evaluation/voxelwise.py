"""Overlap and surface distance of two binary masks as a whole."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.evaluation.nearest import Mask, box_of, nearest_distances

# What the BraTS organisers give a region that only one side has: about the diagonal of 240 x 240 x 155 mm.
BRATS_MISSING_DISTANCE = 374.0


def dice(reference: Mask, prediction: Mask) -> float:
    """Return the Dice coefficient, 2 |A and B| / (|A| + |B|); 1 if both masks are empty, 0 if one is.

    Dice 1945, https://doi.org/10.2307/1932409.

    Example:
        >>> reference, prediction = np.array([True, True, False]), np.array([True, False, False])
        >>> round(dice(reference, prediction), 3)
        0.667
    """
    total = int(reference.sum()) + int(prediction.sum())
    return 2.0 * int((reference & prediction).sum()) / total if total else 1.0


def surface(mask: Mask) -> Mask:
    """Return the voxels of a mask with a face on the background; the outside of the volume is background.

    Example:
        >>> mask = np.ones((5, 5, 5), dtype=bool)
        >>> int(surface(mask).sum())  # all but the 3 x 3 x 3 voxels inside
        98
    """
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def surface_distances(
    reference: Mask, prediction: Mask, *, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances in mm from each surface voxel of one mask to the nearest of the other, both ways.

    Args:
        reference: a mask with at least one voxel.
        prediction: a mask of the same shape with at least one voxel.
        spacing: voxel size in mm along each array axis.

    Returns:
        Distances from reference to prediction, and from prediction to reference.

    Example:
        >>> reference, prediction = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> reference[2, 2, 2] = prediction[2, 2, 5:7] = True
        >>> surface_distances(reference, prediction, spacing=(1, 1, 2))
        (array([6.]), array([6., 8.]))
    """
    box = box_of(reference | prediction)
    near, far = surface(reference[box]), surface(prediction[box])
    return nearest_distances(near, far, spacing=spacing), nearest_distances(far, near, spacing=spacing)


def hd95(
    reference: Mask,
    prediction: Mask,
    *,
    spacing: Sequence[float],
    missing_distance: float = BRATS_MISSING_DISTANCE,
) -> float:
    """Return the 95 % Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    Distances are measured between the centres of surface voxels (those with a face on the background), all with the
    same weight; the percentile interpolates linearly. Other tools pool both directions before they take the percentile,
    or weigh by surface area (`surfaces.surfel_hausdorff`); their numbers differ.

    Args:
        reference: mask of the reference.
        prediction: mask of the prediction, same shape.
        spacing: voxel size in mm along each array axis.
        missing_distance: value in mm if exactly one mask is empty. The default is the 374 of the BraTS organisers,
            about the diagonal of their grid of 240 x 240 x 155 mm.

    Returns:
        The distance in mm; 0 if both masks are empty.

    Example:
        >>> reference, prediction = np.zeros((2, 20, 20, 20), dtype=bool)
        >>> reference[4:12, 4:12, 4:12] = prediction[4:12, 4:12, 4:15] = True
        >>> hd95(reference, prediction, spacing=(1, 1, 2)), hd95(reference, 0 * reference > 0, spacing=(1, 1, 2))
        (6.0, 374.0)
    """
    present = bool(reference.any()), bool(prediction.any())
    if not all(present):
        return missing_distance if any(present) else 0.0
    there, back = surface_distances(reference, prediction, spacing=spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def surface_dice(distances: tuple[NDArray[np.float64], NDArray[np.float64]], tolerance: float) -> float:
    """Return the normalised surface Dice (NSD) as nnU-Net defines it and BraTS uses it.

    This is the mean of two shares: of the surface voxels of each mask, those within `tolerance` mm of the other's
    surface. Surface Dice weighted by area (Nikolov et al. 2018, https://arxiv.org/abs/1809.04430) is another number.

    Args:
        distances: distances both ways, from `surface_distances`.
        tolerance: distance in mm, inclusive.

    Example:
        >>> distances = np.array([0.0, 1.0]), np.array([0.0, 1.0, 3.0, 3.0])
        >>> surface_dice(distances, tolerance=1.0)
        0.75
    """
    return float(np.mean([np.mean(values <= tolerance) for values in distances]))
