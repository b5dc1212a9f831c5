"""Reader of images with a separate header file: Analyze 7.5 and its variants, and NIfTI-1 pairs."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bdfm_nnunet.images.gzip_files import read_bytes
from bdfm_nnunet.images.image_faults import Damaged

NO_ORIENTATION = (
    "{name} is an Analyze file, whose header does not reliably say where left is: nibabel's convention was taken"
)


def read_pair(path: Path, name: str) -> tuple[Any, np.ndarray, str]:
    """Read both files of a pair.

    Args:
        path: one of the two files.
        name: name of the file in messages.

    Returns:
        A NIfTI-1 header with the pair's scaling and position, the stored values, and a note on the orientation (empty
        if the header defines it).

    Raises:
        Refusal: a file of the pair is missing or damaged.
    """
    stem = name.rpartition(".")[0]
    pair = {suffix: _part(path, suffix) for suffix in (".hdr", ".img")}
    for part in pair.values():
        read_bytes(part, stem + part.suffix)
    try:
        image, stored = _load(pair)
        analyze = not isinstance(image, nib.Nifti1Pair)
        header = _nifti_header(image) if analyze else _single_header(image)
        if analyze:
            stored = stored.astype(header.get_data_dtype(), copy=False)
    except Exception:  # nibabel may raise anything for a header of random bytes or a short image
        raise Damaged(name, "is no whole pair of Analyze or NIfTI-1 files") from None
    return header, stored, NO_ORIENTATION.format(name=name) if analyze else ""


def _part(path: Path, suffix: str) -> Path:
    """Return the file of a pair with this suffix, in the case of `path` first, then in any case."""
    if path.suffix.lower() == suffix:
        return path
    usual = path.with_suffix(suffix.upper() if path.suffix.isupper() else suffix)
    if usual.exists():
        return usual
    others = (other for other in path.parent.iterdir() if other.stem == path.stem and other.suffix.lower() == suffix)
    return min(others, default=usual)


def _load(pair: Mapping[str, Path]) -> tuple[Any, np.ndarray]:
    """Return nibabel's image and the stored values; nibabel never sees suffixes in mixed case, which it refuses."""
    if {part.suffix for part in pair.values()} in ({".hdr", ".img"}, {".HDR", ".IMG"}):
        return _values(nib.load(pair[".img"]))
    with tempfile.TemporaryDirectory() as folder:
        for suffix, part in pair.items():
            (Path(folder) / f"volume{suffix}").symlink_to(part.absolute())
        return _values(nib.load(Path(folder) / "volume.img"))


def _values(image: Any) -> tuple[Any, np.ndarray]:
    return image, np.array(image.dataobj.get_unscaled(), order="F")


def _single_header(image: Any) -> Any:
    if int(image.header["sizeof_hdr"]) != 348:
        raise ValueError("not NIfTI-1")
    return nib.Nifti1Header(image.header.binaryblock, image.header.endianness, check=False)


def _nifti_header(image: Any) -> Any:
    """Return a NIfTI-1 header with nibabel's interpretation of an Analyze header."""
    header = nib.Nifti1Header()
    header.set_data_dtype(image.get_data_dtype().newbyteorder("<"))
    header.set_data_shape(image.shape)
    header.set_zooms(image.header.get_zooms())
    header.set_xyzt_units("mm")
    header.set_qform(image.affine, "scanner")
    header.set_sform(image.affine, "scanner")
    header["scl_slope"], header["scl_inter"] = image.dataobj.slope, image.dataobj.inter
    return header
