"""Label values: the one rule by which every command reads label maps."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.image_faults import Damaged, WrongAxes
from bdfm_nnunet.images.volumes import Volume, read_volume, without_ones

MOST_VALUES = 1000
"""A file with more distinct values than this is no label map; its values are not listed."""
WIDEST = 1 << 16
"""Label values that lie further apart are counted by sorting."""
BLOCK = 1 << 16
"""Voxels that are counted together, so that they stay in the processor's cache."""
FEW = 8
"""Values that lie no further apart are counted one by one, which needs no wider copy."""
_NOISE = 4 * float(np.finfo(np.float32).eps)
"""A stored value, a slope and an intercept in single precision, multiplied and added, are off by less, relatively."""
_MOST_NOISE = 0.01
_LARGEST = 2.0**31


def whole_numbers(volume: Volume) -> NDArray[Any]:
    """Return the values of a label map in an integer type, (x, y, z).

    Raises:
        Refusal: a value is not a whole number.
    """
    whole, broken = split_whole(volume)
    if broken.size:
        raise Refusal(
            f"{volume.name} has {broken.size} voxels with values such as {as_text(broken[0])} where whole-number "
            "labels were expected: take the original label file, not a resampled one",
            entry="labels-not-whole",
        )
    return whole


def split_whole(volume: Volume) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the nearest integer of every voxel, (x, y, z), and the values that are not integers, ascending.

    A value is an integer if it differs from one by no more than the rounding error of single precision, in which
    headers store the scaling: 85 times 1/85 is not exactly 1.
    """
    array = volume.array
    if array.dtype.kind != "f":
        return array, np.empty(0)
    single = array.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):
        whole = np.rint(single).astype(np.int64)
    other = whole != single
    if not other.any():
        return whole, np.empty(0)
    values = array[other].astype(np.float64)
    intercept = abs(float(volume.header["scl_inter"])) if array is not volume.stored else 0.0
    noise = np.minimum(_NOISE * np.maximum(np.maximum(np.abs(values), intercept), 1), _MOST_NOISE)
    with np.errstate(invalid="ignore"):
        near = (np.abs(values - np.rint(values)) <= noise) & (np.abs(values) < _LARGEST)
    return whole, np.sort(values[~near])


def as_text(value: float) -> str:
    """Return a value as text, with enough digits to show why it was refused.

    >>> as_text(7.0), as_text(1.0001)
    ('7', '1.0001')
    """
    return f"{float(value):.9g}"


def read_labels(path: Path, *, allowed: Collection[int], remedy: str) -> tuple[Volume, NDArray[Any]]:
    """Read a label map and check its values.

    Args:
        path: NIfTI file, including those that nnU-Net reads by nibabel.
        allowed: label values it may hold, including 0.
        remedy: remedy for another value, for the message.

    Returns:
        The volume and its labels (x, y, z), in int16 or wider.

    Raises:
        Refusal: the file cannot be read, is not 3-D, or holds a value that is fractional or not allowed.

    Example:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), 2, dtype=np.uint8), np.eye(4)), "case_1.nii.gz")
        >>> _, labels = read_labels(Path("case_1.nii.gz"), allowed=(0, 1, 2), remedy="map its labels first")
        >>> labels.dtype, int(labels.max())
        (dtype('int16'), 2)
    """
    try:
        volume = read_volume(path, str(path), by_nibabel=True)
    except Damaged as fault:
        raise Refusal(f"{path} cannot be read as NIfTI (it {fault.what}): copy or write it again") from None
    except WrongAxes as fault:
        axes = len(without_ones(fault.shape))
        if axes == 3:
            raise
        raise Refusal(f"{path} has {axes} dimensions, expected 3: give one label volume per file") from None
    whole, broken = split_whole(volume)
    unknown = [*map(as_text, broken[:1]), *map(str, sorted(set(histogram(whole)) - set(allowed)))]
    if unknown:
        raise Refusal(f"{path} holds the value {unknown[0]}, expected only {sorted(allowed)}: {remedy}")
    return volume, whole.astype(np.promote_types(np.int16, np.min_scalar_type(max(allowed))), copy=False)


# --------------------------------------------------------------------------------------------------------- counting


def label_histogram(volume: Volume) -> dict[int, int]:
    """Return the label values in ascending order and their numbers of voxels.

    Raises:
        Refusal: a value is not a whole number.
    """
    return histogram(whole_numbers(volume))


def histogram(whole: NDArray[Any]) -> dict[int, int]:
    """Return the values of an integer array, ascending, at most `MOST_VALUES`, and their numbers of occurrences."""
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
