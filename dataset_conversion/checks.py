"""Finds out whether the values of a volume can be used, and what they are."""

import hashlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.volumes import Volume

MOST_VALUES = 1000
"""A file with more distinct values than this is no label map; its values are not listed."""
WIDEST = 1 << 16
"""Label values that lie further apart are counted by sorting."""
LARGEST = float(np.finfo(np.float32).max)
"""nnU-Net computes in single precision: beyond it values are infinite."""
BLOCK = 1 << 16
"""Voxels that are counted together, so that they stay in the processor's cache."""
FEW = 8
"""Values that lie no further apart are counted one by one, which needs no wider copy."""
SHORT = np.iinfo(np.int16)


def is_empty(volume: Volume) -> bool:
    """Whether an image has no contrast at all.

    Raises:
        Refusal: it has values that are no numbers.
    """
    low, high = volume.array.min(), volume.array.max()
    if not -LARGEST <= low <= high <= LARGEST:
        bad = int(np.count_nonzero(~(np.abs(volume.array) <= LARGEST)))
        raise Refusal(f"{volume.name} has {bad} voxels that are NaN or infinite: repair it or leave the case out")
    return bool(low == high)


def check_contrast(volume: Volume) -> None:
    """Refuses an image with values that are no numbers, and one without any contrast."""
    if is_empty(volume):
        value = volume.array.flat[0].item()
        raise Refusal(f"{volume.name} is empty (every voxel is {value:g}): download it again or leave the case out")


def label_histogram(volume: Volume) -> dict[int, int]:
    """Label values in ascending order and how many voxels have them.

    Raises:
        Refusal: a value is not a whole number.
    """
    return histogram(whole_numbers(volume))


def histogram(whole: np.ndarray) -> dict[int, int]:
    """Values of an integer array in ascending order, the first `MOST_VALUES` of them, and how often they occur."""
    low, high = int(whole.min()), int(whole.max())
    if high - low >= WIDEST or high > np.iinfo(np.int64).max:
        values, counts = np.unique(whole, return_counts=True)
        return {int(value): int(count) for value, count in zip(values[:MOST_VALUES], counts)}
    flat = whole.ravel(order="K")
    if high - low < FEW:
        found = {value: int(np.count_nonzero(flat == value)) for value in range(low, high + 1)}
        return {value: count for value, count in found.items() if count}
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for start in range(0, flat.size, BLOCK):
        counts += np.bincount(flat[start : start + BLOCK].astype(np.int64) - low, minlength=counts.size)
    return {int(index) + low: int(counts[index]) for index in np.flatnonzero(counts)[:MOST_VALUES]}


def whole_numbers(volume: Volume) -> np.ndarray:
    """The values of a label map in an integer type, (x, y, z).

    Values that were scaled may differ from a whole number by the noise of single precision.

    Raises:
        Refusal: a value is not a whole number.
    """
    array = volume.array
    if array.dtype.kind != "f":
        return array
    single = array.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):
        whole = single.astype(np.int64)
    broken = whole != single
    if broken.any():
        raise Refusal(
            f"{volume.name} has {int(broken.sum())} voxels with values such as {single[broken].flat[0]:g} where "
            "whole-number labels were expected: take the original label file, not a resampled one"
        )
    return whole


def check_geometry(volume: Volume, reference: Volume) -> None:
    """Refuses a volume whose voxels do not lie where those of the reference do.

    Spacings must agree as nnU-Net demands it; corners of the two grids may lie 0.01 mm apart.
    """
    if volume.shape != reference.shape:
        raise Refusal(
            f"{volume.name} has shape {_times(volume.shape)} but {reference.name} has {_times(reference.shape)}: "
            "take all files of the case from the same release"
        )
    if not np.allclose(volume.grid.spacing, reference.grid.spacing):
        raise Refusal(
            f"{volume.name} has spacing {_times(volume.spacing)} mm but {reference.name} has "
            f"{_times(reference.spacing)} mm: take all files of the case from the same release"
        )
    distance = float(np.abs(volume.grid.corners - reference.grid.corners).max())
    if not distance <= 0.01:
        raise Refusal(
            f"{volume.name} has another affine (origin or direction) than {reference.name}, their grids lie "
            f"{distance:.3g} mm apart: register the files or leave the case out"
        )


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def hash_of_values(volume: Volume) -> str:
    """SHA-256 of shape (x, y, z) and voxel values, x fastest, axes towards LPS.

    Scaling is applied first and the values are taken in single precision, so it is the same however the file is
    compressed, typed, scaled or oriented. They enter as little-endian int16 if that holds each of them exactly, which
    is so for most scans and half the work, and as float32 otherwise.
    """
    oriented = nib.apply_orientation(volume.array, nib.io_orientation(volume.grid.affine))
    digest = hashlib.sha256(np.array(oriented.shape, dtype="<i8").tobytes())
    planes = oriented.transpose()  # one after the other: they stay in the processor's cache
    type_ = "<i2" if all(map(_is_short, planes)) else "<f4"
    for plane in planes:
        values = np.ascontiguousarray(plane, dtype=type_)
        digest.update(values.data if type_ == "<i2" else (values + np.float32(0)).data)  # -0.0 becomes 0.0
    return digest.hexdigest()


def _is_short(plane: np.ndarray) -> bool:
    """Whether all values, in single precision, are whole numbers of 16 bits."""
    if np.can_cast(plane.dtype, np.int16):
        return True
    if plane.dtype.kind == "f":
        plane = plane.astype(np.float32, copy=False)
    if not (SHORT.min <= plane.min() and plane.max() <= SHORT.max):
        return False
    return plane.dtype.kind != "f" or bool((plane == np.rint(plane)).all())
