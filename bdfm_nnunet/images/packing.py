"""Gzip both ways, by the fast ISA-L library, and the bytes of a file."""

import gzip
from pathlib import Path
from typing import cast

from isal import igzip, isal_zlib

from bdfm_nnunet.errors import Refusal

IsalError = cast(type[Exception], isal_zlib.error)  # its type hints take it for an instance
LEVEL = 2
"""Of ISA-L's four: as small as zlib's 1 to 6 on brain images, at ten times the speed; 3 is slower and no smaller."""
GZIP = b"\x1f\x8b"
MOST_SHRUNK = 1100
"""Deflate cannot shrink by more than about 1030; larger sizes in a damaged file's last bytes are not believed."""


def read_bytes(path: Path, name: str) -> bytes:
    """Reads all bytes of a file as they are.

    Raises:
        Refusal: the file cannot be read or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refusal(f"{name} cannot be read ({error.strerror}): check the disk and its permissions") from None
    if not content:
        raise Refusal(f"{name} is an empty file: download it again")
    return content


def unpack(content: bytes, name: str) -> bytes:
    """Uncompresses a gzip file, all members of it, and checks every checksum.

    Raises:
        Refusal: the stream is damaged or ends early.
    """
    try:
        return _single_member(content) or igzip.decompress(content)
    except EOFError:
        if not content.startswith(GZIP):
            raise Refusal(f"{name} is not a gzip file: download it again") from None
        raise Refusal(f"{name} is a truncated gzip file: download it again") from None
    except gzip.BadGzipFile as error:
        what = "is not a gzip file" if "Not a gzipped" in str(error) else f"is a damaged gzip file ({error})"
        raise Refusal(f"{name} {what}: download it again") from None
    except (IsalError, MemoryError) as error:
        raise Refusal(f"{name} is a damaged gzip file ({error}): download it again") from None


def _single_member(content: bytes) -> bytes | None:
    """The usual case, in half the time: the last four bytes tell the size. None where it is not so simple."""
    size = int.from_bytes(content[-4:], "little")
    if not 0 < size < MOST_SHRUNK * len(content):
        return None
    stream = isal_zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(content, size)
    except IsalError:
        return None
    return plain if stream.eof and not stream.unused_data and len(plain) == size else None


def pack(content: bytes) -> bytes:
    """A gzip file with this content; the same content always gives the same bytes."""
    return igzip.compress(content, LEVEL, mtime=0)
