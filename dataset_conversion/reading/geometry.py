"""Comparison of the volumes of a case: their grids, and hashes of their values."""

import hashlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.grids import Grid, difference, distance_mm
from bdfm_nnunet.images.volumes import Volume

SHORT = np.iinfo(np.int16)


def check_geometry(volume: Volume, reference: Volume) -> None:
    """Refuse a volume whose voxels do not lie where those of the reference do."""
    what = difference(volume.grid, reference.grid)
    if what == "shape":
        raise Refusal(
            f"{volume.name} has shape {_times(volume.shape)} but {reference.name} has {_times(reference.shape)}: "
            "take files of the case that belong together"
        )
    if what == "spacing":
        raise Refusal(
            f"{volume.name} has spacing {_times(volume.spacing)} mm but {reference.name} has "
            f"{_times(reference.spacing)} mm: take files of the case that belong together"
        )
    if what:
        raise Refusal(
            f"{volume.name} has another affine (origin or direction) than {reference.name}, their grids lie "
            f"{distance_mm(volume.grid, reference.grid):.3g} mm apart: register the files or leave the case out",
            entry="grids-differ",
        )


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def hash_of_values(volume: Volume) -> str:
    """Return the hash of a volume's values, as `hash_of_array`."""
    return hash_of_array(volume.array, volume.grid)


def hash_of_array(array: np.ndarray, grid: Grid) -> str:
    """Return the SHA-256 of shape (x, y, z) and voxel values, x fastest, axes towards LPS.

    Scaling is applied first and the values are taken in single precision, so it is the same however the file is
    compressed, typed, scaled or oriented. They enter as little-endian int16 if that holds each of them exactly, which
    is so for most scans and half the work, and as float32 otherwise.

    Args:
        array: values with the header's scaling applied, (x, y, z).
        grid: positions of the voxels.
    """
    oriented = nib.apply_orientation(array, nib.io_orientation(grid.affine))
    digest = hashlib.sha256(np.array(oriented.shape, dtype="<i8").tobytes())
    planes = oriented.transpose()  # one after the other: they stay in the processor's cache
    type_ = "<i2" if all(map(_is_short, planes)) else "<f4"
    for plane in planes:
        values = np.ascontiguousarray(plane, dtype=type_)
        digest.update(values.data if type_ == "<i2" else (values + np.float32(0)).data)  # -0.0 becomes 0.0
    return digest.hexdigest()


def _is_short(plane: np.ndarray) -> bool:
    """Return whether all values, in single precision, are whole numbers of 16 bits."""
    if np.can_cast(plane.dtype, np.int16):
        return True
    if plane.dtype.kind == "f":
        plane = plane.astype(np.float32, copy=False)
    if not (SHORT.min <= plane.min() and plane.max() <= SHORT.max):
        return False
    return plane.dtype.kind != "f" or bool((plane == np.rint(plane)).all())
