"""Reads one NIfTI file and says in one sentence why it cannot be used."""

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

NIFTI_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
MOST_VALUES = 1000
"""A file with more distinct values than this is no label map; its values are not listed."""


class Refusal(Exception):
    """Why a case cannot be used: one sentence that names the file and the remedy."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie, as nnU-Net's reader (SimpleITK, world axes LPS) takes it from the header."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def affine(self) -> np.ndarray:
        """Voxel index (x, y, z, 1) to mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        affine[:3, 3] = self.origin
        return affine

    @property
    def corners(self) -> np.ndarray:
        """Position of the eight corner voxels in mm, (8, 3)."""
        indices = np.array(list(product(*((0, size - 1) for size in self.size), (1,))))
        return (indices @ self.affine.T)[:, :3]

    @property
    def orientation(self) -> str:
        """Where the axes point to, for instance `LPS`."""
        return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        name: its file, relative to the download, for messages.
        array: values with the header's scaling applied, (x, y, z).
        grid: where they lie.
    """

    name: str
    array: np.ndarray
    grid: Grid

    @property
    def shape(self) -> list[int]:
        """Voxels per axis, (x, y, z)."""
        return list(self.grid.size)

    @property
    def spacing(self) -> list[float]:
        """Size of a voxel in mm, (x, y, z), without the noise of single precision."""
        return [float(f"{value:.6g}") for value in self.grid.spacing]


def read_volume(path: Path, name: str) -> Volume:
    """Reads a three-dimensional `.nii` or `.nii.gz` file, all of it.

    nibabel reads the values: SimpleITK would turn NaN into 0 and fill up a file that ends early, both in silence.

    Raises:
        Refusal: the file is damaged, is no NIfTI file or is not three-dimensional.
    """
    content = read_bytes(path, name)
    if content[:4] in NIFTI_2:
        raise Refusal(f"{name} is NIfTI-2, which nnU-Net's reader does not know: export it as NIfTI-1")
    try:
        header: Any = nib.Nifti1Image.header_class.from_fileobj(io.BytesIO(content))
        shape, type_ = header.get_data_shape(), header.get_data_dtype()
        needed = int(header.get_data_offset()) + math.prod(shape) * type_.itemsize
    except Exception:  # nibabel may raise anything for a header of random bytes
        raise Refusal(f"{name} is not a NIfTI file: download or export it again") from None
    if type_.kind not in "iuf" or len(_without_ones(shape)) != 3 or min(shape) < 1:
        found = " x ".join(map(str, shape))
        raise Refusal(
            f"{name} is {found} of type {type_} where one 3-D volume of numbers was expected: split it or leave the "
            "case out"
        )
    if len(content) < needed:
        raise Refusal(f"{name} is truncated ({len(content)} of {needed} bytes): download it again")
    grid = _read_grid(path, name)
    if grid.size != _without_ones(shape):
        raise Refusal(f"{name} has a damaged NIfTI header (its size is read in two ways): export it again")
    return Volume(name, np.asanyarray(nib.Nifti1Image.from_bytes(content).dataobj).reshape(grid.size), grid)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape without trailing axes of one voxel, which say nothing."""
    shape = tuple(int(size) for size in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _read_grid(path: Path, name: str) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise Refusal(f"{name} has a header that nnU-Net cannot read ({lines[-1].strip()}): export it again") from None
    return Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def read_bytes(path: Path, name: str) -> bytes:
    """Reads all bytes, those of `.nii.gz` uncompressed and checked against the stream's checksum.

    Raises:
        Refusal: the file cannot be read, is empty, or its gzip stream is damaged or ends early.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refusal(f"{name} cannot be read ({error.strerror}): check the disk and its permissions") from None
    if not content:
        raise Refusal(f"{name} is an empty file: download it again")
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except EOFError:
        raise Refusal(f"{name} is a truncated gzip file: download it again") from None
    except gzip.BadGzipFile as error:
        what = "is not a gzip file" if "Not a gzipped" in str(error) else f"is a damaged gzip file ({error})"
        raise Refusal(f"{name} {what}: download it again") from None
    except zlib.error as error:
        raise Refusal(f"{name} is a damaged gzip file ({error}): download it again") from None


def check_image(volume: Volume) -> None:
    """Refuses an image with values that are no numbers, and one without any contrast."""
    if volume.array.dtype.kind == "f":
        bad = int(np.count_nonzero(~np.isfinite(volume.array)))
        if bad:
            raise Refusal(f"{volume.name} has {bad} voxels that are NaN or infinite: repair it or leave the case out")
    if volume.array.min() == volume.array.max():
        value = volume.array.flat[0].item()
        raise Refusal(f"{volume.name} is empty (every voxel is {value:g}): download it again or leave the case out")


def label_histogram(volume: Volume) -> dict[int, int]:
    """Label values and how many voxels have them.

    Raises:
        Refusal: a value is not a whole number.
    """
    values, counts = np.unique(volume.array, return_counts=True)
    whole = (
        np.isfinite(values) & (values == np.round(values)) if values.dtype.kind == "f" else np.ones(len(values), bool)
    )
    if not whole.all():
        share = int(counts[~whole].sum())
        raise Refusal(
            f"{volume.name} has {share} voxels with values such as {values[~whole][0]:g} where whole-number labels "
            "were expected: take the original label file, not a resampled one"
        )
    return {int(value): int(count) for value, count in zip(values[:MOST_VALUES], counts)}


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
    if distance > 0.01:
        raise Refusal(
            f"{volume.name} has another affine (origin or direction) than {reference.name}, their grids lie "
            f"{distance:.3g} mm apart: register the files or leave the case out"
        )


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def hash_of_values(volume: Volume) -> str:
    """SHA-256 of shape (x, y, z) and voxel values as little-endian float32, x fastest, axes towards LPS.

    Scaling is applied first, so it is the same however the file is compressed, typed, scaled or oriented.
    """
    oriented = nib.apply_orientation(volume.array, nib.io_orientation(volume.grid.affine))
    values = np.ascontiguousarray(oriented.transpose(), dtype="<f4") + np.float32(0)  # -0.0 becomes 0.0
    digest = hashlib.sha256(np.array(oriented.shape, dtype="<i8").tobytes())
    digest.update(values.data)
    return digest.hexdigest()
