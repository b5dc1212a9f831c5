"""Reading and writing of gzip files, by the fast ISA-L library."""

import gzip
import io
from pathlib import Path
from typing import cast

from isal import igzip, isal_zlib

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import read_regular
from bdfm_nnunet.images.image_faults import Damaged

IsalError = cast(type[Exception], isal_zlib.error)  # its type hints take it for an instance
LEVEL = 2
"""Of ISA-L's four: as small as zlib's 1 to 6 on brain images, at ten times the speed; 3 is slower and no smaller."""
GZIP = b"\x1f\x8b"
MOST_SHRUNK = 1100
"""Deflate cannot shrink by more than about 1030; larger sizes in a damaged file's last bytes are not believed."""

_POINTERS = (
    (b"/annex/objects/", "git-annex", "datalad get"),
    (b"version https://git-lfs.", "Git LFS", "git lfs pull"),
)
"""What stands in the place of a file that was not fetched, where it is no link."""
_LONGEST_POINTER = 1024


def read_bytes(path: Path, name: str) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        Refusal: the file cannot be read, is a pipe or a device, or is empty.
    """
    try:
        content = read_regular(path)
    except InputError as error:
        raise Refusal(str(error).replace(str(path), name, 1)) from None
    if not content:
        raise Damaged(name, "is an empty file")
    if len(content) < _LONGEST_POINTER:
        for mark, program, command in _POINTERS:
            if mark in content:
                raise Damaged(
                    name, f"is a pointer of {program}, its content is not there", f"fetch it with `{command}`"
                )
    return content


def first_bytes(content: bytes, name: str, count: int) -> bytes:
    """Return the first uncompressed bytes of a gzip file; no more is uncompressed.

    Raises:
        Refusal: the file is not a gzip file, or its start is damaged.
    """
    return _bounded(content, name, count)


def unpack(content: bytes, name: str, *, most: int | None = None) -> bytes:
    """Uncompress all members of a gzip file and check every checksum.

    Args:
        content: compressed bytes.
        name: name of the file in messages.
        most: largest uncompressed size in bytes; no more is ever in memory.

    Raises:
        Refusal: the stream is damaged, ends early, or holds more.

    Example:
        >>> unpack(pack(b"voxels"), "image.nii.gz", most=100)
        b'voxels'
    """
    plain = _single_member(content, most)
    if plain is None:
        plain = _bounded(content, name, -1 if most is None else most + 1)
    if most is not None and len(plain) > most:
        raise Damaged(name, "holds more than its header tells", "export it again")
    return plain


def _bounded(content: bytes, name: str, count: int) -> bytes:
    try:
        with igzip.IGzipFile(fileobj=io.BytesIO(content)) as stream:
            return stream.read(count)
    except EOFError:
        if not content.startswith(GZIP):
            raise Damaged(name, "is not a gzip file") from None
        raise Damaged(name, "is a truncated gzip file") from None
    except gzip.BadGzipFile as error:
        what = "is not a gzip file" if "Not a gzipped" in str(error) else f"is a damaged gzip file ({error})"
        raise Damaged(name, what) from None
    except (IsalError, MemoryError) as error:
        raise Damaged(name, f"is a damaged gzip file ({error or 'it does not fit into memory'})") from None


def _single_member(content: bytes, most: int | None) -> bytes | None:
    """Uncompress a single member in half the time, by the size in its last four bytes; None if that fails."""
    size = int.from_bytes(content[-4:], "little")
    if not 0 < size < MOST_SHRUNK * len(content) or (most is not None and size > most):
        return None
    stream = isal_zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(content, size)
    except IsalError:
        return None
    return plain if stream.eof and not stream.unused_data and len(plain) == size else None


def pack(content: bytes) -> bytes:
    """Compress content to a gzip file; the same content always gives the same bytes."""
    return igzip.compress(content, LEVEL, mtime=0)
