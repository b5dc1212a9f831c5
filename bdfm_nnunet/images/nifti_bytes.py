"""Volumes as the bytes of NIfTI files."""

from typing import Any

from numpy.typing import NDArray

from bdfm_nnunet.images.gzip_files import pack


def packed_values(values: NDArray[Any], *, like: Any, gzip: bool = True) -> bytes:
    """Return a file with these values, unscaled, (x, y, z), on the grid of the header `like`.

    Args:
        values: of a type that NIfTI knows.
        like: header of a single file, of nibabel.
        gzip: whether it is compressed, as `.nii.gz`.
    """
    header = like.copy()
    header.set_data_dtype(values.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0
    return packed_volume(header, values.astype(header.get_data_dtype(), copy=False), gzip=gzip)


def packed_volume(header: Any, stored: NDArray[Any], *, gzip: bool = True) -> bytes:
    """Return a file with this header of a single file and these values as they stand in it, (x, y, z)."""
    gap = bytes(header.single_vox_offset - header.sizeof_hdr)
    content = header.binaryblock + gap + stored.tobytes(order="F")
    return pack(content) if gzip else content
