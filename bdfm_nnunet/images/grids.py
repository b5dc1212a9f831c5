"""Grids: the positions of an image's voxels, read as nnU-Net reads them, and their comparison."""

import math
import os
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.images.image_faults import Damaged

TOLERANCE_MM = 0.01
"""Corners of one grid that two programs wrote differ by some micrometres: headers hold single precision, some of it as
rotations. Voxels that are smaller than a tenth of a millimetre may be off by a tenth of their size."""
_MM = {1: 1000.0, 3: 0.001}
"""Millimetres by the code of a unit of length; every other code means mm."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Positions of the voxels of an image, in world axes LPS (towards left, posterior, superior).

    Attributes:
        size: voxels along each axis.
        spacing: voxel size in mm along each axis.
        origin: position of the first voxel in mm.
        direction: unit vectors of the axes, row by row; they may not be orthogonal if nnU-Net reads by nibabel.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine matrix from voxel index (x, y, z, 1) to mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        affine[:3, 3] = self.origin
        return affine

    @property
    def corners(self) -> NDArray[np.float64]:
        """Positions of the eight corner voxels in mm, (8, 3)."""
        return _corners(self.size, self.affine)

    @property
    def orientation(self) -> str:
        """Directions of the axes, for instance `LPS`."""
        return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)


def difference(grid: Grid, other: Grid) -> str:
    """Return the first difference of two grids: `shape`, `spacing` (by nnU-Net's rule), `affine`, or an empty text.

    >>> here = Grid((9, 9, 9), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    >>> difference(here, Grid((9, 9, 9), (1, 1, 1), (0, 0, 5), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    'affine'
    """
    if grid.size != other.size:
        return "shape"
    if not np.allclose(grid.spacing, other.spacing):
        return "spacing"
    tolerance = min(TOLERANCE_MM, 0.1 * min(map(abs, other.spacing)))
    return "" if distance_mm(grid, other) <= tolerance else "affine"


def distance_mm(grid: Grid, other: Grid) -> float:
    """Return the largest distance in mm between corresponding corner voxels of two grids of one size."""
    return _farthest(grid.corners, other.corners)


def _corners(size: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    indices = np.array(list(product(*((0, length - 1) for length in size), (1,))))
    return np.asarray((indices @ affine.T)[:, :3])


def _farthest(corners: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(corners - others, axis=1).max())


# ---------------------------------------------------------------------------------------------------------- reading


def read_grid(header: Any, name: str, path: Path | None = None) -> Grid:
    """Return the grid that SimpleITK, nnU-Net's first reader, takes from a NIfTI-1 header.

    Args:
        header: nibabel's header of a single file.
        name: name of the file in messages.
        path: the file, if this is its header. Without it, or if the name is not UTF-8 (SimpleITK would abort the
            process), SimpleITK reads a temporary file that holds the header alone.

    Raises:
        Refusal: the header does not define positions, or SimpleITK refuses it.
    """
    check_position(header, name)
    if path is not None and path.name.endswith((".nii", ".nii.gz")) and str(path).isprintable():
        return _by_simpleitk(path, name)
    header = header.copy()
    header["vox_offset"] = header.single_vox_offset
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "header.nii"
            path.write_bytes(header.binaryblock + bytes(4))
            return _by_simpleitk(path, name)
    except OSError as error:
        raise cannot_write(Path(tempfile.gettempdir()), error) from None


def _by_simpleitk(path: Path, name: str) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise Refusal(f"{name} has a header that nnU-Net cannot read ({reason}): export it again") from None
    if reader.GetDimension() != 3:
        raise Damaged(name, "has a damaged NIfTI header (its size is read in two ways)", "export it again")
    signs = np.sign(reader.GetSpacing())  # reading the whole image turns axes of negative spacing round
    direction = _floats((np.reshape(reader.GetDirection(), (3, 3)) * signs).ravel())
    grid = Grid(reader.GetSize(), _floats(np.abs(reader.GetSpacing())), reader.GetOrigin(), direction)
    if not np.isfinite([*grid.spacing, *grid.origin, *grid.direction]).all() or 0 in grid.spacing:
        raise _no_position(name)
    return grid


def read_grid_by_nibabel(header: Any, shape: tuple[int, ...], name: str) -> Grid:
    """Return the grid that nibabel, nnU-Net's reader of files that SimpleITK refuses, takes from a header.

    Args:
        header: nibabel's NIfTI-1 or NIfTI-2 header.
        shape: voxels along each axis.
        name: name of the file in messages.

    Raises:
        Refusal: the header does not define positions, or uses a unit that this reader does not know.
    """
    check_position(header, name)
    if millimetres(header) != 1:
        raise Refusal(
            f"{name} gives lengths in a unit other than mm, which nnU-Net's reader of such files does not heed: export "
            "it in mm"
        )
    affine = _LPS @ np.asarray(header.get_best_affine(), dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and np.linalg.det(affine[:3, :3] / np.where(spacing, spacing, 1))):
        raise _no_position(name)
    direction = affine[:3, :3] / spacing
    return Grid(shape, _floats(spacing), _floats(affine[:3, 3]), _floats(direction.ravel()))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def millimetres(header: Any) -> float:
    """Return the length in mm of a header's unit."""
    return _MM.get(int(header["xyzt_units"]) & 7, 1.0)


def check_position(header: Any, name: str) -> None:
    """Refuse a header whose affine is not finite or flattens the volume to a plane."""
    if header["sform_code"] > 0:
        rows = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)
        if not np.isfinite(rows).all() or not np.linalg.matrix_rank(rows[:, :3]) == 3:
            raise _no_position(name)
    if header["qform_code"] > 0:
        fields = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
        if not np.isfinite([float(header[field]) for field in fields]).all():
            raise _no_position(name)
    if not np.isfinite(header["pixdim"][:4]).all():
        raise _no_position(name)


def _no_position(name: str) -> Refusal:
    return Refusal(
        f"{name} has an affine or voxel size that is zero or not a number, so nothing tells where its voxels lie: "
        "export it again"
    )


# ------------------------------------------------------------------------------------------ what other programs see


def note_of_position(header: Any, grid: Grid, name: str) -> str:
    """Return a sentence if a NIfTI header is ambiguous about the positions of its voxels; else an empty text.

    Args:
        header: nibabel's header.
        grid: the grid that nnU-Net's reader takes.
        name: name of the file in the sentence.
    """
    if not np.all(header["pixdim"][1:4]):
        size = " x ".join(f"{step:g}" for step in grid.spacing)
        return f"{name} has a voxel size of 0 in its header: nnU-Net's reader takes {size} mm"
    if not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return ""
    try:
        affines = [np.asarray(affine, dtype=np.float64) for affine in (header.get_qform(), header.get_sform())]
    except Exception:  # nibabel may raise anything for quaternions that are none; the reader took the sform then
        return ""
    apart = _farthest(*(_corners(grid.size, affine) for affine in affines)) * millimetres(header)
    if not math.isfinite(apart) or apart <= 0.1 * min(map(abs, grid.spacing)):  # less than anyone sees
        return ""
    codes = f"qform (code {int(header['qform_code'])}) and sform (code {int(header['sform_code'])})"
    return f"{codes} of {name} disagree by {apart:.1f} mm: other programs may show it in another place"
