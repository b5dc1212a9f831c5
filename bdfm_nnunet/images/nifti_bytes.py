"""NIfTI files as bytes."""

from typing import Any

from numpy.typing import NDArray

from bdfm_nnunet.images.gzip_files import pack


def packed_values(values: NDArray[Any], *, like: Any, gzip: bool = True) -> bytes:
    """Return the bytes of a file with these values, unscaled, on the grid of the header `like`.

    Args:
        values: array (x, y, z) of a type that NIfTI knows.
        like: nibabel's header of a single file.
        gzip: whether to compress, for a `.nii.gz` file.
    """
    header = like.copy()
    header.set_data_dtype(values.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0
    return packed_volume(header, values.astype(header.get_data_dtype(), copy=False), gzip=gzip)


def packed_volume(header: Any, stored: NDArray[Any], *, gzip: bool = True) -> bytes:
    """Return the bytes of a file with this header and these stored values (x, y, z)."""
    gap = bytes(header.single_vox_offset - header.sizeof_hdr)
    content = header.binaryblock + gap + stored.tobytes(order="F")
    return pack(content) if gzip else content
