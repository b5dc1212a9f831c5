"""Writing files so that an interrupted run never leaves one that looks whole."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError

_REMEDIES = {
    errno.ENOSPC: "free some space there and run the command again",
    errno.EDQUOT: "raise the quota or free some space and run the command again",
    errno.EFBIG: "raise the file-size limit of the account and run the command again",
    errno.EACCES: "give yourself permission to write there or name another folder",
    errno.EPERM: "give yourself permission to write there or name another folder",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOTDIR: "name a folder in the place of that file",
    errno.EISDIR: "name a file in that folder",
    errno.EEXIST: "name a folder in the place of that file",
}


def cannot_write(path: Path, error: OSError) -> InputError:
    """Turns an operating-system error met while writing `path` into a sentence with a remedy."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and run the command again")
    return InputError(f"cannot write {path} ({reason}): {remedy}")


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place once the block ends without an error.

    The temporary name keeps all suffixes (writers choose the format by them) and starts with a dot. The content is
    flushed to the disk before the rename, so after a crash there is either the old file or the whole new one.

    Raises:
        InputError: the folder or the file cannot be written (no permission, full disk, a file in the folder's place).
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path, or run the step that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): restore it or write it anew") from None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
