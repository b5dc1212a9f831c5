"""Reader of the volumes of one file; a refusal is one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.images.grids import Grid, note_of_position, read_grid, read_grid_by_nibabel
from bdfm_nnunet.images.gzip_files import GZIP, first_bytes, read_bytes, unpack
from bdfm_nnunet.images.header_pairs import read_pair
from bdfm_nnunet.images.image_faults import Damaged, WrongAxes

HEADER, FIRST_VOXEL = 348, 352
HEADER_2 = 540
NIFTI_2 = (HEADER_2.to_bytes(4, "little"), HEADER_2.to_bytes(4, "big"))
LONGEST_TAIL = 16 << 20
"""Bytes behind the voxels that are read: some programs pad their files, and a file may hold anything there."""
ONE_VOLUME = "one 3-D volume of numbers was"
COPIES = 4
"""Reading, scaling and checking a volume takes as much memory as this many of it."""


@dataclass(frozen=True)
class Volume:
    """A three-dimensional volume in memory.

    Attributes:
        name: name of the file in messages, relative to the download.
        header: header of a single NIfTI-1 file with this volume alone.
        stored: values as stored in the file, (x, y, z), x fastest.
        array: values with the header's scaling applied, (x, y, z); the same memory if there is no scaling.
        grid: positions of the voxels.
        as_it_is: whether the file can be used in the data set unchanged; otherwise the volume is written again.
        plain: whether the file is called `.nii.gz` but is not compressed.
        note: note for the user on how the file was read.
        by_nibabel: whether nnU-Net's first reader, SimpleITK, refuses the header, so that the grid is nibabel's.
        flat: whether the file is two-dimensional.
    """

    name: str
    header: Any
    stored: np.ndarray
    array: np.ndarray
    grid: Grid
    as_it_is: bool
    plain: bool = False
    note: str = ""
    by_nibabel: bool = False
    flat: bool = False

    @property
    def shape(self) -> list[int]:
        """Voxels per axis, (x, y, z)."""
        return list(self.grid.size)

    @property
    def spacing(self) -> list[float]:
        """Voxel size in mm, (x, y, z), without rounding errors of single precision."""
        return [float(f"{value:.6g}") for value in self.grid.spacing]


def read_volume(path: Path, name: str, *, by_nibabel: bool = False, flat: bool = False) -> Volume:
    """Read the file of one three-dimensional volume.

    Args:
        path: the file.
        name: name of the file in messages.
        by_nibabel: as in `read_volumes`.
        flat: as in `read_volumes`.

    Raises:
        Refusal: the file is damaged, has a format that is not read, or is not three-dimensional.

    Example:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype=np.int16), np.eye(4)), "case_1_0000.nii.gz")
        >>> volume = read_volume(Path("case_1_0000.nii.gz"), "case_1_0000.nii.gz")
        >>> volume.shape, volume.spacing
        ([4, 5, 6], [1.0, 1.0, 1.0])
    """
    return read_volumes(path, name, [None], by_nibabel=by_nibabel, flat=flat)[0]


def read_volumes(
    path: Path,
    name: str,
    indices: Sequence[int | None],
    *,
    plain: bool = False,
    by_nibabel: bool = False,
    flat: bool = False,
) -> list[Volume]:
    """Read volumes of one `.nii`, `.nii.gz`, `.img` or `.hdr` file (ending in any case); the file is read once.

    NumPy takes the values from the bytes as nibabel does: SimpleITK would silently turn NaN into 0 and fill up a file
    that ends early. Only regular files are read, and no more is uncompressed than the header announces.

    Args:
        path: the file.
        name: name of the file in messages.
        indices: indices on the fourth axis; None for the whole of a three-dimensional file.
        plain: whether a file called `.nii.gz` may be uncompressed.
        by_nibabel: whether to read a file that SimpleITK refuses (NIfTI-2, or a sheared affine) as nnU-Net's other
            reader does; a data set that names SimpleITK as its reader cannot hold it.
        flat: whether to read a two-dimensional file as a volume of one slice.

    Raises:
        Refusal: the file is damaged, has a format that is not read, or lacks the axes that `indices` ask for.
    """
    try:
        if path.suffix.lower() in (".img", ".hdr"):
            header, stored, note = read_pair(path, name)
            _check_type(name, stored.shape, stored.dtype)
            stored = stored.reshape(without_ones(stored.shape), order="F")
            file = _File(name, header, stored, again=True, note=note)
        else:
            file = _read_single(path, name, plain, by_nibabel, flat)
        return [_one_of(file, index, by_nibabel) for index in indices]
    except MemoryError:
        raise Refusal(f"{name} does not fit into the memory that is left: use a machine with more memory") from None


@dataclass(frozen=True)
class _File:
    """Content of one file: a header, which is that of `path` unless `path` is None, and the stored values in all axes.

    `again`: whether the file must be written again for a data set. `flat`: whether it has two axes.
    """

    name: str
    header: Any
    stored: np.ndarray
    path: Path | None = None
    again: bool = False
    plain: bool = False
    note: str = ""
    flat: bool = False


def _read_single(path: Path, name: str, plain: bool, by_nibabel: bool, flat: bool) -> _File:
    content = read_bytes(path, name)
    called_gz = path.suffix.lower() == ".gz"
    uncompressed = called_gz and plain and not content.startswith(GZIP)
    packed = called_gz and not uncompressed
    head = first_bytes(content, name, HEADER_2) if packed else content
    header, shape, start = parse_header(head, name, by_nibabel, flat)
    flat = len(shape) == 2
    if flat:
        header, shape = _with_one_slice(header), (*shape, 1)
    type_ = header.get_data_dtype()
    needed = start + math.prod(shape) * type_.itemsize
    _check_memory(name, needed)
    if packed:
        content = unpack(content, name, most=needed + LONGEST_TAIL)
    if len(content) < needed:
        raise Damaged(name, f"is truncated ({len(content)} of {needed} bytes)")
    stored = np.frombuffer(content, type_, math.prod(shape), start).reshape(without_ones(shape), order="F")
    return _File(name, header, stored, None if uncompressed or flat else path, not packed, uncompressed, flat=flat)


def parse_header(content: bytes, name: str, by_nibabel: bool, flat: bool = False) -> tuple[Any, tuple[int, ...], int]:
    """Return header, shape and first voxel's byte of a single NIfTI file.

    Args:
        content: the first `HEADER_2` bytes of the file or more.
        name: name of the file in messages.
        by_nibabel: as in `read_volumes`.
        flat: as in `read_volumes`.

    Raises:
        Refusal: it is no such file, or has axes or a type that are not read.
    """
    two = content[:4] in NIFTI_2
    if two and not by_nibabel:
        raise Refusal(f"{name} is NIfTI-2, which nnU-Net's reader does not know: export it as NIfTI-1", entry="nifti-2")
    kind: Any = nib.Nifti2Header if two else nib.Nifti1Header
    try:
        header: Any = kind(content[: HEADER_2 if two else HEADER], check=False)  # a check would mend it in silence
        if int(header["sizeof_hdr"]) != header.sizeof_hdr or header["magic"].item() != header.single_magic:
            raise ValueError("another kind of file")
        shape, type_ = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        start = float(header["vox_offset"])
    except Exception:  # nibabel may raise anything for a header of random bytes
        raise Damaged(name, "is not a NIfTI file", "download or export it again") from None
    _check_type(name, shape, type_, fewest=2 if flat else 3)
    if not (start >= header.single_vox_offset and start.is_integer()):
        raise Damaged(name, f"has a damaged NIfTI header (voxels start at byte {start:g})", "export it again")
    return header, shape, int(start)


def _with_one_slice(header: Any) -> Any:
    """Return the header of a plane as a slice of 1 mm, whatever it says of the missing third axis."""
    header = header.copy()
    header["dim"][0], header["dim"][3:], header["pixdim"][3] = 3, 1, 1
    plane = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)
    normal = np.cross(plane[:, 0], plane[:, 1])
    if (length := np.linalg.norm(normal)) > 0:
        for row, value in zip(("srow_x", "srow_y", "srow_z"), normal / length):
            header[row][2] = value
    return header


def _check_memory(name: str, needed: int) -> None:
    if COPIES * needed > memory_bytes():
        raise Refusal(
            f"{name} asks in its header for {needed / 2**30:.1f} GiB of voxels, and {COPIES} times that to work on "
            "them, more than this machine has: check the file, or use a machine with more memory"
        )


def _check_type(name: str, shape: Sequence[int], type_: np.dtype, fewest: int = 3) -> None:
    if type_.kind not in "iuf" or type_.itemsize > 8 or not fewest <= len(without_ones(shape)) <= 4 or min(shape) < 1:
        kind = "colours or complex numbers" if type_.kind in "Vc" else str(type_)
        raise WrongAxes(name, shape, kind, ONE_VOLUME)


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape without trailing axes of one voxel."""
    shape = tuple(int(size) for size in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _one_of(file: _File, index: int | None, by_nibabel: bool) -> Volume:
    """Return one volume of a file."""
    name, stored, path, again = file.name, file.stored, file.path, file.again
    if stored.ndim == 4:
        if index is None or index >= stored.shape[3]:
            wanted = ONE_VOLUME if index is None else f"{index + 1} or more volumes were"
            raise WrongAxes(name, stored.shape, str(stored.dtype), wanted)
        stored, path, again = stored[..., index], None, True
    elif index:
        raise Refusal(f"{name} is 3-D where {index + 1} or more volumes were expected: download it again")
    slope, intercept = scaling_of(file.header, name)
    header = header_of_one(file.header, stored.shape) if path is None else file.header
    grid, other_reader = grid_of(header, stored.shape, name, path, by_nibabel)
    notes = [note for note in (file.note, note_of_position(header, grid, name)) if note]
    return Volume(
        name, header_of_one(header, stored.shape), stored, apply_read_scaling(stored, slope, intercept), grid,
        not again, file.plain, "; ".join(notes), other_reader, file.flat,
    )  # fmt: skip


def grid_of(header: Any, shape: tuple[int, ...], name: str, path: Path | None, by_nibabel: bool) -> tuple[Grid, bool]:
    """Return the grid that nnU-Net takes of a 3-D header, and whether it takes it by nibabel.

    Args:
        header: nibabel's header of a volume.
        shape: (x, y, z).
        name: name of the file in messages.
        path: as in `read_grid`.
        by_nibabel: as in `read_volumes`.

    Raises:
        Refusal: the header does not define positions.
    """
    if int(header["sizeof_hdr"]) == HEADER_2:
        return read_grid_by_nibabel(header, shape, name), True
    try:
        grid = read_grid(header, name, path)
    except Refusal:
        if not by_nibabel:
            raise
        return read_grid_by_nibabel(header, shape, name), True
    if grid.size != shape:
        raise Damaged(name, "has a damaged NIfTI header (its size is read in two ways)", "export it again")
    return grid, False


def scaling_of(header: Any, name: str) -> tuple[float, float]:
    """Return slope and intercept if all readers apply the same.

    In NIfTI-1, slope 0 means no scaling, but ITK then still adds the intercept. ITK also takes a slope below its
    epsilon for 1 and non-finite values for 0.

    Args:
        header: nibabel's header.
        name: name of the file in messages.

    Raises:
        Refusal: they do not.
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


def header_of_one(header: Any, shape: Sequence[int]) -> Any:
    """Return the header of a single file with one volume, (x, y, z), of `header`'s file: same scaling and position."""
    header = header.copy()
    header["dim"][:] = 3, *shape, 1, 1, 1, 1
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    return header
