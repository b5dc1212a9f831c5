"""Volumes of DICOM series: the planes of a series put in order, and their values."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.images.dicom_headers import MARKS, Frame, quietly
from bdfm_nnunet.images.grids import Grid
from bdfm_nnunet.images.volumes import Volume, grid_of

MOST_UNEVEN = 0.02
"""Share of the distance between slices by which one may lie elsewhere: headers are rounded."""
SAME_PLACE = 0.05
"""Distance in mm up to which two slices lie at one place."""
MOST_ASLANT = 1e-3
"""Difference of unit vectors that are meant to be the same, or at right angles."""
_BY_SIMPLEITK = {
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
}  # fmt: skip
"""Compressed transfer syntaxes that SimpleITK decodes: JPEG, JPEG-LS and JPEG 2000."""
_TWELVE_BITS = "1.2.840.10008.1.2.4.51"


@dataclass(frozen=True)
class Stack:
    """The planes of a sound series, in their order in space.

    Attributes:
        frames: one per slice; from slice to slice along `normal`.
        affine: from voxel (column, row, slice, 1) to mm in LPS.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm: from column to column, row to row, slice to slice."""
        size = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(size[0]), float(size[1]), float(size[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        rows, columns = self.frames[0].size
        return columns, rows, len(self.frames)

    @property
    def plane(self) -> str:
        """Name of the plane of the slices; `oblique` where they lie more than ten degrees off."""
        normal = np.abs(np.cross(self.affine[:3, 0], self.affine[:3, 1]))
        normal /= np.linalg.norm(normal)
        nearest = int(normal.argmax())
        return ("sagittal", "coronal", "axial")[nearest] if normal[nearest] > np.cos(np.radians(10)) else "oblique"

    @property
    def note(self) -> str:
        """A sentence where slices are thinner or thicker than they lie apart."""
        thickness, apart = self.frames[0].thickness, self.spacing[2]
        if thickness <= 0 or abs(thickness - apart) <= 0.05 * apart:
            return ""
        relation = "with gaps between them" if thickness < apart else "which overlap"
        return f"slices of {thickness:g} mm lie {apart:.4g} mm apart, {relation}"


def stack_of(frames: Sequence[Frame], name: str) -> Stack:
    """Put the planes of a series in order.

    Args:
        frames: of the series, in any order, copies left out.
        name: of the series in messages.

    Raises:
        Refusal: they are not the slices of one volume, all there and evenly spaced.
    """
    _check_alike(frames, name)
    first = frames[0]
    along_row, along_column = np.reshape(first.direction, (2, 3))
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if abs(along_row @ along_column) > MOST_ASLANT or not np.allclose(lengths, 1, atol=10 * MOST_ASLANT):
        raise Refusal(f"{name} has rows and columns that are not at right angles: export it again")
    normal = np.cross(along_row, along_column)
    ordered = sorted(frames, key=lambda frame: float(np.dot(frame.position, normal)))
    positions = np.array([frame.position for frame in ordered])
    step = _step(positions @ normal, ordered, name)
    _check_straight(positions, normal, first, name)
    affine = np.eye(4)
    affine[:3, 0] = along_row / np.linalg.norm(along_row) * first.spacing[1]
    affine[:3, 1] = along_column / np.linalg.norm(along_column) * first.spacing[0]
    affine[:3, 2] = normal / np.linalg.norm(normal) * step
    affine[:3, 3] = positions[0]
    return Stack(tuple(ordered), affine)


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    """Refuse planes of different size or direction, or that do not tell where they lie."""
    sizes = Counter(frame.size for frame in frames)
    if len(sizes) > 1:
        found = " and ".join(f"{count} of {columns} x {rows}" for (rows, columns), count in sizes.most_common(3))
        raise Refusal(f"{name} mixes images of different size ({found} pixels): {_LEAVE_OUT}")
    lost = sum(not (frame.position and frame.direction and frame.spacing) for frame in frames)
    if lost:
        raise Refusal(f"{name} does not tell where {lost} of its {len(frames)} images lie: {_LEAVE_OUT}")
    first = frames[0]
    for what, values, tolerance in (
        ("direction", [frame.direction for frame in frames], MOST_ASLANT),
        ("pixel size", [frame.spacing for frame in frames], MOST_ASLANT * min(first.spacing)),
    ):
        other = ~(np.abs(np.array(values) - values[0]) <= tolerance).all(axis=1)
        if other.any():
            raise Refusal(
                f"{name} mixes images of different {what} ({int(other.sum())} of {len(frames)} differ from the first), "
                f"as localisers do: {_LEAVE_OUT}"
            )
    if min(first.spacing) <= 0:
        raise Refusal(f"{name} has pixels of {first.spacing[0]:g} x {first.spacing[1]:g} mm: export it again")


_LEAVE_OUT = "leave it out, or export the volume that is meant as a series of its own"


def _step(places: NDArray[np.float64], ordered: Sequence[Frame], name: str) -> float:
    """Return the distance from slice to slice in mm.

    Args:
        places: of the slices along their normal, in order.
        ordered: the slices.
        name: of the series in messages.
    """
    if len(places) < 2:
        raise Refusal(f"{name} is a single image, expected the slices of a volume: {_LEAVE_OUT}")
    steps = np.diff(places)
    apart = steps[steps > SAME_PLACE]
    usual = float(np.median(apart)) if len(apart) else 0.0
    same = steps <= max(MOST_UNEVEN * usual, SAME_PLACE)
    if same.any() or not usual:
        raise _several(ordered, int(same.sum()), name)
    wide = np.flatnonzero(steps > (1.5 * usual))
    if len(wide):
        missing = int(np.round(steps[wide] / usual - 1).sum())
        raise Refusal(
            f"{name} has a gap: after slice {wide[0] + 1} of {len(places)} the next lies {steps[wide[0]]:.4g} mm on, "
            f"where the others lie {usual:.4g} mm apart ({missing} slices seem to be missing): export the series again",
            entry="series-with-a-gap",
        )
    step = float(places[-1] - places[0]) / (len(places) - 1)
    uneven = float(np.abs(places - places[0] - step * np.arange(len(places))).max())
    if uneven > max(MOST_UNEVEN * step, 0.01):
        raise Refusal(
            f"{name} has slices at uneven distances ({steps.min():.4g} to {steps.max():.4g} mm): {_LEAVE_OUT}"
        )
    return step


def _several(ordered: Sequence[Frame], count: int, name: str) -> Refusal:
    """Return the refusal of a series with several images at one place, with what tells them apart."""
    differing = [mark for i, mark in enumerate(MARKS) if len({frame.marks[i] for frame in ordered}) > 1]
    places = len(ordered) - count
    if differing and places and len(ordered) % places == 0:
        return Refusal(
            f"{name} mixes {len(ordered) // places} volumes of {places} slices that differ in "
            f"{' and '.join(differing)}: {_LEAVE_OUT}",
            entry="series-of-several-volumes",
        )
    return Refusal(
        f"{name} has duplicate slices: {len(ordered)} images at {places} places"
        f"{' that differ in ' + ' and '.join(differing) if differing else ''}: remove the wrong ones, or {_LEAVE_OUT}",
        entry="series-of-several-volumes",
    )


def _check_straight(positions: NDArray[np.float64], normal: NDArray[np.float64], first: Frame, name: str) -> None:
    """Refuse slices that are shifted against each other, as by a tilted gantry."""
    offsets = positions - positions[0]
    aslant = offsets - np.outer(offsets @ normal, normal)
    shift = float(np.linalg.norm(aslant, axis=1).max())
    if shift > max(0.1 * min(first.spacing), 0.01):
        raise Refusal(
            f"{name} has slices that are shifted by up to {shift:.3g} mm against each other (a tilted gantry), which "
            "NIfTI as nnU-Net reads it cannot hold: leave it out, or resample it first"
        )


# -------------------------------------------------------------------------------------------------------- values


def read_stack(stack: Stack, name: str) -> Volume:
    """Read the values of a series, all as they are stored, into a volume with the grid of its slices.

    Args:
        stack: the series.
        name: of the series in messages.

    Raises:
        Refusal: a file is damaged, or compressed in a way for which no decoder is installed.
    """
    planes: NDArray[Any] | None = None
    rescale = {frame.rescale for frame in stack.frames}
    read: dict[Path, NDArray[Any]] = {}
    for k, frame in enumerate(stack.frames):
        if frame.path not in read:
            read = {frame.path: _pixels(frame, f"{name} (slice {k + 1} of {len(stack.frames)})")}
        plane = read[frame.path][frame.number]
        if len(rescale) > 1:
            slope, intercept = frame.rescale
            plane = (plane * np.float64(slope) + intercept).astype(np.float32)
        if planes is None:
            planes = np.empty(stack.shape, plane.dtype, order="F")
        if plane.dtype != planes.dtype:
            planes = planes.astype(np.promote_types(planes.dtype, plane.dtype), order="F")
        planes[:, :, k] = plane.T
    assert planes is not None
    scaling = (1.0, 0.0) if len(rescale) > 1 else next(iter(rescale))
    return volume_of(planes, stack.affine, name, scaling=scaling, note=stack.note)


def grid_of_stack(stack: Stack) -> Grid:
    """Return the grid of a series as nnU-Net reads it from the volume of the series."""
    size = stack.spacing
    direction = stack.affine[:3, :3] / size
    origin = tuple(float(value) for value in stack.affine[:3, 3])
    return Grid(stack.shape, size, origin, tuple(float(value) for value in direction.ravel()))


def volume_of(
    stored: NDArray[Any], affine: NDArray[np.float64], name: str, *, scaling: tuple[float, float] = (1.0, 0.0),
    note: str = "",
) -> Volume:  # fmt: skip
    """Return a volume as it would be read from a NIfTI file.

    Args:
        stored: values (x, y, z).
        affine: from voxel to mm in LPS.
        name: of the volume in messages.
        scaling: slope and intercept of the values.
        note: for the user.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm")
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    header.set_qform(ras, code=1)
    header.set_sform(ras, code=1)
    scaling = float(np.float32(scaling[0])), float(np.float32(scaling[1]))  # as the header holds them
    header["scl_slope"], header["scl_inter"] = scaling
    header["vox_offset"], header["magic"] = header.single_vox_offset, header.single_magic
    grid, _ = grid_of(header, tuple(stored.shape), name, None, False)
    stored = np.asfortranarray(stored)
    return Volume(name, header, stored, apply_read_scaling(stored, *scaling), grid, as_it_is=False, note=note)


def _pixels(frame: Frame, name: str) -> NDArray[Any]:
    """Return the stored values of all planes of a file, (frames, rows, columns)."""
    import pydicom

    try:
        with quietly():
            dataset = pydicom.dcmread(frame.path, force=True)
            syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
            if syntax is None:  # a file without its own header: what pydicom has found out
                syntax = dataset.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
            other = syntax.is_compressed and not syntax.is_deflated and _needs_simpleitk(syntax)
            values = _by_simpleitk(dataset, syntax, name) if other else dataset.pixel_array
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each decoder has errors of its own
        raise Refusal(f"{name} is damaged ({_reason(error)}): export the series again") from None
    planes = values.size // (frame.size[0] * frame.size[1])
    if values.dtype.kind not in "iuf" or values.size % (frame.size[0] * frame.size[1]) or frame.number >= planes:
        raise Refusal(f"{name} is damaged (it has not the images that its header tells): export the series again")
    return np.asarray(values.reshape(-1, *frame.size))


def _plain_syntax(dataset: Any) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _needs_simpleitk(syntax: Any) -> bool:
    """Return whether pydicom has no decoder installed for a compressed transfer syntax."""
    from pydicom.pixels import get_decoder

    if syntax == _TWELVE_BITS:  # Pillow reads 8 bits alone
        return True
    try:
        return not get_decoder(syntax).is_available
    except NotImplementedError:
        return True


def _by_simpleitk(dataset: Any, syntax: Any, name: str) -> NDArray[Any]:
    """Return values that SimpleITK decodes from a file of nothing but pixels: it would apply some of the scalings."""
    if syntax not in _BY_SIMPLEITK:
        raise Refusal(
            f"{name} is compressed as {syntax.name} ({syntax}), for which no decoder is installed: install one that "
            "pydicom finds (pylibjpeg with its plug-ins), or export the series uncompressed",
            entry="no-decoder",
        )
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/image.dcm"
        _only_pixels(dataset, syntax).save_as(path, enforce_file_format=True)
        reader.SetFileName(path)
        try:
            return np.asarray(sitk.GetArrayFromImage(reader.Execute()))
        except RuntimeError:
            raise Refusal(f"{name}, compressed as {syntax.name}, is damaged: export the series again") from None


def _only_pixels(dataset: Any, syntax: Any) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID
    from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage as kind

    meta, number = FileMetaDataset(), UID("1.2.3")
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, kind, number
    bare = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    bare.SOPClassUID, bare.SOPInstanceUID = kind, number
    for attribute in _PIXELS:
        if attribute in dataset:
            bare[attribute] = dataset[attribute]
    return bare


_PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


def _reason(error: BaseException) -> str:
    """Return what is wrong, without the path that libraries put into their messages."""
    text = " ".join(str(error).split())
    return type(error).__name__ if not text or "/" in text or "\\" in text else text[:150]
