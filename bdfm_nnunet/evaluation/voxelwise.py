"""Whole-region overlap and surface distance of two binary masks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.evaluation.nearest import Mask, box_of, nearest_distances

# What the BraTS organisers give a region that only one side has: about the diagonal of 240 x 240 x 155 mm.
BRATS_MISSING_DISTANCE = 374.0


def dice(reference: Mask, prediction: Mask) -> float:
    """Dice overlap, 2|A and B| / (|A| + |B|); 1 where both masks are empty, 0 where one is."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2.0 * int((reference & prediction).sum()) / total if total else 1.0


def surface(mask: Mask) -> Mask:
    """The voxels of a mask with a face on the background; the outside of the volume counts as background."""
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def surface_distances(
    reference: Mask, prediction: Mask, *, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of the one mask to the nearest of the other, both ways.

    Args:
        reference: a mask with at least one voxel.
        prediction: a mask of the same shape with at least one voxel.
        spacing: voxel size in mm along each array axis.

    Returns:
        Distances from reference to prediction, and from prediction to reference.
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
    """95 % Hausdorff distance in mm: the larger of the two directed 95th percentiles of the surface distances.

    The surface of a mask is its voxels with a face on the background, taken at their centres, each with the same
    weight; the percentile interpolates linearly. (Other tools pool both directions before they take the percentile, or
    weigh by surface area; their numbers differ.)

    Args:
        reference: mask of the reference.
        prediction: mask of the prediction, same shape.
        spacing: voxel size in mm along each array axis.
        missing_distance: the value in mm where exactly one mask is empty. The default is the 374 of the BraTS
            organisers, about the diagonal of their grid of 240 x 240 x 155 mm. Where both are empty it is 0.
    """
    present = bool(reference.any()), bool(prediction.any())
    if not all(present):
        return missing_distance if any(present) else 0.0
    there, back = surface_distances(reference, prediction, spacing=spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def surface_dice(distances: tuple[NDArray[np.float64], NDArray[np.float64]], tolerance: float) -> float:
    """Normalised surface Dice (NSD) as nnU-Net defines it and BraTS uses it: the mean of two shares.

    They are the shares of surface voxels of the one mask that lie within `tolerance` mm of the other's. (Surface Dice
    by area, as DeepMind defines it, is another number.)

    Args:
        distances: both ways, from `surface_distances`.
        tolerance: distance in mm, itself included.
    """
    return float(np.mean([np.mean(values <= tolerance) for values in distances]))
