"""Checks of the values of an image."""

import numpy as np

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.volumes import Volume

LARGEST = float(np.finfo(np.float32).max)
"""nnU-Net computes in single precision: beyond it values are infinite."""


def is_empty(volume: Volume) -> bool:
    """Return whether an image has no contrast at all.

    Raises:
        Refusal: the image has values that are not finite numbers.
    """
    fault = fault_of_intensities(volume)
    if fault and not fault.startswith("is empty"):
        raise Refusal(f"{volume.name} {fault}: repair it or leave the case out")
    return bool(fault)


def check_contrast(volume: Volume) -> None:
    """Refuse an image with values that are not finite numbers, or without any contrast."""
    if is_empty(volume):
        raise Refusal(f"{volume.name} {fault_of_intensities(volume)}: download it again or leave the case out")


def fault_of_intensities(volume: Volume) -> str:
    """Return the fault of an image, in words that follow its name; empty if it can be used."""
    low, high = volume.array.min(), volume.array.max()
    if not -LARGEST <= low <= high <= LARGEST:
        bad = int(np.count_nonzero(~(np.abs(volume.array) <= LARGEST)))
        return f"has {bad} voxels that are NaN or infinite"
    return f"is empty (every voxel is {low.item():g})" if low == high else ""
