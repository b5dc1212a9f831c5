"""Reads the volumes of one file and says in one sentence why it cannot be used."""

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.volumeutils import apply_read_scaling

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.packing import GZIP, read_bytes, unpack
from bdfm_nnunet.images.pairs import read_pair

NIFTI_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
MAGIC = b"n+1"
HEADER, FIRST_VOXEL = 348, 352


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
    """A three-dimensional volume in memory.

    Attributes:
        name: its file, relative to the download, for messages.
        header: of the single NIfTI-1 file that holds this volume alone.
        stored: values as they are in the file, (x, y, z), x fastest.
        array: values with the header's scaling applied, (x, y, z); the same memory where there is none.
        grid: where they lie.
        as_it_is: the file can stand in the data set unchanged; otherwise the volume is written anew.
        plain: the file is called `.nii.gz` but was not compressed.
        note: what a user should know of how it was read.
    """

    name: str
    header: Any
    stored: np.ndarray
    array: np.ndarray
    grid: Grid
    as_it_is: bool
    plain: bool = False
    note: str = ""

    @property
    def shape(self) -> list[int]:
        """Voxels per axis, (x, y, z)."""
        return list(self.grid.size)

    @property
    def spacing(self) -> list[float]:
        """Size of a voxel in mm, (x, y, z), without the noise of single precision."""
        return [float(f"{value:.6g}") for value in self.grid.spacing]


def read_volume(path: Path, name: str) -> Volume:
    """Reads the file of one three-dimensional volume, all of it.

    Raises:
        Refusal: the file is damaged, is of a form that is not read, or is not three-dimensional.
    """
    return read_volumes(path, name, [None])[0]


def read_volumes(path: Path, name: str, indices: Sequence[int | None], *, plain: bool = False) -> list[Volume]:
    """Reads volumes of one `.nii`, `.nii.gz`, `.img` or `.hdr` file, which is read once.

    NumPy takes the values from the bytes as nibabel would: SimpleITK would turn NaN into 0 and fill up a file that
    ends early, both in silence.

    Args:
        path: the file.
        name: how messages call it.
        indices: on the fourth axis; None stands for the whole of a three-dimensional file.
        plain: whether a file called `.nii.gz` may be uncompressed.

    Raises:
        Refusal: the file is damaged, is of a form that is not read, or has not the axes that `indices` ask for.
    """
    if path.suffix in (".img", ".hdr"):
        header, stored, note = read_pair(path, name)
        _check_type(name, stored.shape, stored.dtype)
        stored = stored.reshape(without_ones(stored.shape), order="F")
        return [_one_of(header, stored, index, name, path=None, note=note) for index in indices]
    content = read_bytes(path, name)
    uncompressed = path.suffix == ".gz" and plain and not content.startswith(GZIP)
    if path.suffix == ".gz" and not uncompressed:
        content = unpack(content, name)
    header, stored = _parse(content, name)
    judged = None if uncompressed else path
    return [_one_of(header, stored, index, name, path=judged, plain=uncompressed) for index in indices]


def _parse(content: bytes, name: str) -> tuple[Any, np.ndarray]:
    """Header and values (in the file's own type and axes) of a single NIfTI-1 file."""
    if content[:4] in NIFTI_2:
        raise Refusal(f"{name} is NIfTI-2, which nnU-Net's reader does not know: export it as NIfTI-1")
    try:
        header: Any = nib.Nifti1Header(content[:HEADER], check=False)  # a check would mend it in silence
        if int(header["sizeof_hdr"]) != HEADER or header["magic"].item() != MAGIC:
            raise ValueError("another kind of file")
        shape, type_, start = header.get_data_shape(), header.get_data_dtype(), float(header["vox_offset"])
        needed = start + math.prod(shape) * type_.itemsize
    except Exception:  # nibabel may raise anything for a header of random bytes
        raise Refusal(f"{name} is not a NIfTI file: download or export it again") from None
    _check_type(name, shape, type_)
    if not (start >= FIRST_VOXEL and start.is_integer()):
        raise Refusal(f"{name} has a damaged NIfTI header (voxels start at byte {start:g}): export it again")
    if len(content) < needed:
        raise Refusal(f"{name} is truncated ({len(content)} of {needed:.0f} bytes): download it again")
    stored = np.frombuffer(content, type_, math.prod(shape), int(start))
    return header, stored.reshape(without_ones(shape), order="F")


def _check_type(name: str, shape: Sequence[int], type_: np.dtype) -> None:
    if type_.kind not in "iuf" or type_.itemsize > 8 or len(without_ones(shape)) not in (3, 4) or min(shape) < 1:
        found = " x ".join(map(str, shape))
        raise Refusal(
            f"{name} is {found} of type {type_} where one 3-D volume of numbers was expected: split it or leave the "
            "case out"
        )


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape without trailing axes of one voxel, which say nothing."""
    shape = tuple(int(size) for size in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _one_of(
    header: Any, stored: np.ndarray, index: int | None, name: str, *, path: Path | None, plain: bool = False,
    note: str = "",
) -> Volume:  # fmt: skip
    """One volume of a file; `path` is the file if it could stand in the data set unchanged."""
    if stored.ndim == 4:
        if index is None or index >= stored.shape[3]:
            wanted = "one 3-D volume of numbers was" if index is None else f"{index + 1} or more volumes were"
            raise Refusal(
                f"{name} is {_times(stored.shape)} of type {stored.dtype} where {wanted} expected: split it or leave "
                "the case out"
            )
        stored, path = stored[..., index], None
    elif index:
        raise Refusal(f"{name} is 3-D where {index + 1} or more volumes were expected: download it again")
    slope, intercept = _scaling(header, name)
    header = _header_of_one(header, stored)
    grid = _read_grid(path, name) if path is not None else _grid_of_header(header, name)
    if grid.size != stored.shape:
        raise Refusal(f"{name} has a damaged NIfTI header (its size is read in two ways): export it again")
    array = apply_read_scaling(stored, slope, intercept)
    return Volume(name, header, stored, array, grid, path is not None and path.suffix == ".gz", plain, note)


def _scaling(header: Any, name: str) -> tuple[float, float]:
    """Slope and intercept, where all readers apply the same.

    NIfTI-1 has slope 0 for no scaling, but ITK then still adds the intercept, and takes a slope below its epsilon for
    1; values that are not finite are 0 to it.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    slope = slope if math.isfinite(slope) else 0.0
    if slope == 0 and (intercept == 0 or not math.isfinite(intercept)):
        return 1.0, 0.0
    if abs(slope) < np.finfo(float).eps or not math.isfinite(intercept):
        raise Refusal(
            f"{name} has a scaling that readers take differently (slope {slope:g}, intercept {intercept:g}): export "
            "it again"
        )
    return slope, intercept


def _header_of_one(header: Any, stored: np.ndarray) -> Any:
    """The header of a single NIfTI-1 file with one volume of `header`'s file, scaled and placed as there."""
    header = header.copy()
    header["dim"][:] = 3, *stored.shape, 1, 1, 1, 1
    header["magic"], header["vox_offset"] = b"n+1", FIRST_VOXEL
    return header


def _grid_of_header(header: Any, name: str) -> Grid:
    """Shows nnU-Net's reader a file that ends after the header."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.nii"
        path.write_bytes(header.binaryblock + bytes(FIRST_VOXEL - HEADER))
        return _read_grid(path, name)


def _read_grid(path: Path, name: str) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise Refusal(f"{name} has a header that nnU-Net cannot read ({reason}): export it again") from None
    return Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
