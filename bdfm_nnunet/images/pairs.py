"""Reads images whose header is a file of its own: Analyze 7.5 and its kin, and NIfTI-1 pairs."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bdfm_nnunet.images.faults import Damaged
from bdfm_nnunet.images.packing import read_bytes

NO_ORIENTATION = (
    "{name} is an Analyze file, whose header does not reliably say where left is: nibabel's convention was taken"
)


def read_pair(path: Path, name: str) -> tuple[Any, np.ndarray, str]:
    """Reads both files of a pair.

    Args:
        path: one of them.
        name: how messages call it.

    Returns:
        A NIfTI-1 header with the pair's scaling and position, the values as stored, and a note on the orientation,
        empty where the header gives it.

    Raises:
        Refusal: a file of the pair is missing or damaged.
    """
    stem = name.rpartition(".")[0]
    suffixes = (".HDR", ".IMG") if path.suffix.isupper() else (".hdr", ".img")
    for suffix in suffixes:
        read_bytes(path.with_suffix(suffix), stem + suffix)
    try:
        image: Any = nib.load(path.with_suffix(suffixes[1]))
        stored = np.array(image.dataobj.get_unscaled(), order="F")
        analyze = not isinstance(image, nib.Nifti1Pair)
        header = _nifti_header(image) if analyze else _single_header(image)
        if analyze:
            stored = stored.astype(header.get_data_dtype(), copy=False)
    except Exception:  # nibabel may raise anything for a header of random bytes or a short image
        raise Damaged(name, "is no whole pair of Analyze or NIfTI-1 files") from None
    return header, stored, NO_ORIENTATION.format(name=name) if analyze else ""


def _single_header(image: Any) -> Any:
    if int(image.header["sizeof_hdr"]) != 348:
        raise ValueError("not NIfTI-1")
    return nib.Nifti1Header(image.header.binaryblock, image.header.endianness, check=False)


def _nifti_header(image: Any) -> Any:
    """A NIfTI-1 header that says what nibabel makes of an Analyze header."""
    header = nib.Nifti1Header()
    header.set_data_dtype(image.get_data_dtype().newbyteorder("<"))
    header.set_data_shape(image.shape)
    header.set_zooms(image.header.get_zooms())
    header.set_xyzt_units("mm")
    header.set_qform(image.affine, "scanner")
    header.set_sform(image.affine, "scanner")
    header["scl_slope"], header["scl_inter"] = image.dataobj.slope, image.dataobj.inter
    return header
