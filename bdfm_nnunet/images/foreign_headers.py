"""Headers of formats other than NIfTI, checked before any voxels are loaded.

Libraries trust these headers: they open other files that a header names, anywhere, and allocate any amount of memory.
"""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes, open_regular

LONGEST = 1 << 20
"""Bytes at the start of a file in which its header must end."""
COPIES = 2
"""Reading takes as much memory as this many of the volume: as it is stored, and in single precision."""
AGAIN = "copy or export it again"
_META = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$", re.MULTILINE)
_OTHER_FILE = re.compile(rb"data ?file[ \t]*:(?!=)[ \t]*([^\r\n]*)", re.IGNORECASE)
_PLACE = re.compile(
    rb"^[ \t]*(?:Offset|Position|Origin|ElementSpacing|ElementSize|TransformMatrix|Rotation|Orientation)[ \t]*=(.*)$",
    re.MULTILINE,
)
_NUMBERS = "voxels of several numbers (colours, vectors or complex numbers)"
_GIPL_HEADER = 256


def check_header(path: Path) -> None:
    """Refuse a file whose header names other files, more voxels than fit into memory, or other axes.

    The check covers NRRD, MetaImage (MHA), other formats of SimpleITK, and TIFF. The library that reads PNG and BMP
    checks their size.

    Args:
        path: file; its ending tells the format.

    Raises:
        InputError: the file is refused, or is not of the format that its ending says.
    """
    open_regular(path).close()
    kind = next((check for endings, check in _CHECKS.items() if path.name.lower().endswith(endings)), None)
    if kind is not None:
        kind(path)


def _check_nrrd(path: Path) -> None:
    head, end, _ = _start_of(path).replace(b"\r\n", b"\n").partition(b"\n\n")
    if not head.startswith(b"NRRD") or not end:
        raise InputError(f"{path} is no NRRD file with its voxels behind the header: {AGAIN} as one file")
    if other := _OTHER_FILE.search(head):
        raise _elsewhere(path, other[1])
    _check_by_simpleitk(path)


def _check_meta(path: Path) -> None:
    content = _start_of(path)
    found = _META.search(content)
    if found is None or content.lower().find(b"elementdatafile") < found.start():
        raise InputError(f"{path} is no MetaImage file (it has no ElementDataFile = LOCAL): {AGAIN}")
    if found[1].upper() != b"LOCAL":
        raise _elsewhere(path, found[1])
    if not all(map(_is_finite, b" ".join(_PLACE.findall(content[: found.start()])).split())):
        raise _no_position(path)
    _check_by_simpleitk(path)


def _start_of(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(LONGEST)


def _elsewhere(path: Path, other: bytes) -> InputError:
    name = other.decode("utf-8", "backslashreplace")[:100]
    return InputError(
        f"{path} says that its voxels lie in other files ({name!r}), which is not followed: {AGAIN} as one file"
    )


def _check_gipl(path: Path) -> None:
    needed = _GIPL_HEADER + _check_by_simpleitk(path)
    if path.stat().st_size < needed:  # the library fills up what is missing with whatever is in memory
        raise InputError(f"{path} is truncated ({path.stat().st_size} of {needed} bytes): {AGAIN} from a whole file")


def _check_by_simpleitk(path: Path) -> int:
    """Return the number of bytes of the voxels."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise cannot_be_read(path, error) from None
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components > 1 or len(size) not in (2, 3):
        found = f"{' x '.join(map(str, size))} {_NUMBERS if components > 1 else 'voxels'}"
        raise InputError(
            f"{path} holds {found}, expected one number per voxel of a single 2-D or 3-D image: save each channel as a "
            "file of its own"
        )
    position = [*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection()]
    if not np.isfinite(position).all() or 0 in reader.GetSpacing():
        raise _no_position(path)
    needed = math.prod(size) * sitk.Image([1] * len(size), reader.GetPixelID()).GetSizeOfPixelComponent()
    _check_memory(path, needed)
    return needed


def _is_finite(number: bytes) -> bool:
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False


def _no_position(path: Path) -> InputError:
    return InputError(
        f"{path} has a voxel size or position that is zero or not a number, so nothing tells where its voxels lie: "
        "export it again"
    )


def _check_tiff(path: Path) -> None:
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            others = re.findall(r"FileName\s*=\s*[\"']([^\"']*)", tiff.ome_metadata or "") if tiff.is_ome else []
            several = tiff.is_mmstack or tiff.is_ndtiff
            series = tiff.series[0]
            needed = math.prod(series.shape) * series.dtype.itemsize
            kind = series.dtype.kind
    except Exception as error:  # of a damaged file, tifffile raises anything
        raise cannot_be_read(path, error) from None
    if several or any(other.lower() != path.name.lower() for other in others):
        raise _elsewhere(path, ", ".join(others).encode())
    if kind not in "iufb":
        raise InputError(f"{path} holds complex numbers, expected one number per voxel: save the magnitude alone")
    _check_memory(path, needed)


def _check_memory(path: Path, needed: int) -> None:
    if COPIES * needed > memory_bytes():
        raise InputError(
            f"{path} asks in its header for {needed / 2**30:,.1f} GiB of voxels, and {COPIES} times that to read them, "
            f"more than the {memory_bytes() / 2**30:,.1f} GiB of this machine: check the file, or use a larger machine"
        )


def cannot_be_read(path: Path | str, error: BaseException) -> InputError:
    """Turn a library's error for a file into a message for the user."""
    reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
    return InputError(f"{path} cannot be read ({reason[:300]}): {AGAIN}")


_CHECKS: dict[tuple[str, ...], Callable[[Path], object]] = {
    (".nrrd", ".nhdr"): _check_nrrd,
    (".mha", ".mhd"): _check_meta,
    (".tif", ".tiff"): _check_tiff,
    (".gipl",): _check_gipl,
}
