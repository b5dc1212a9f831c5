"""Reading and writing of files: only regular files are read, and an interrupted run leaves no half-written file."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import Anything, Shape, fault_of

_REMEDIES = {
    errno.ENOSPC: "free some space there and {again}",
    errno.EDQUOT: "raise the quota or free some space and {again}",
    errno.EFBIG: "raise the file-size limit of the account and {again}",
    errno.EACCES: "give yourself permission to write there or name another folder",
    errno.EPERM: "give yourself permission to write there or name another folder",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOTDIR: "name a folder in the place of that file",
    errno.EISDIR: "name a file in that folder",
    errno.EEXIST: "name a folder in the place of that file",
    errno.ENAMETOOLONG: "give it a shorter name",
}
_AGAIN = "run the command again"
_UNFINISHED = re.compile(r"\.(?P<pid>\d+)\.(?:(?P<host>[0-9a-f]{6})[0-9a-f]{4}\.)?(?:partial|link)\.")
_FOREIGN_SECONDS = 24 * 3600
_LIMITS_OF_CONTAINERS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def cannot_write(path: Path, error: OSError, *, again: str = _AGAIN) -> InputError:
    """Turn an error of the operating system while writing `path` into a message; its remedy ends with `again`."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and {again}")
    return InputError(f"cannot write {path} ({reason}): {remedy.format(again=again)}")


def is_full(error: OSError) -> bool:
    """Return whether the disk, the quota or the account's file-size limit is exhausted."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# ------------------------------------------------------------------------------------------------------- reading


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; pipes and devices, which may block for ever, are refused.

    Raises:
        InputError: the file does not exist, is not a regular file, or must not be read.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise cannot_read(path, error) from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise InputError(f"{path} is {_KINDS.get(stat.S_IFMT(kind), 'no file')}, expected a regular file: name another")
    return os.fdopen(handle, "rb")


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket"}  # fmt: skip


def cannot_read(path: Path, error: Exception) -> InputError:
    """Turn an error while opening or reading `path` into a message with a remedy."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if path.is_symlink():
            return InputError(
                f"{path} is a link whose target {os.readlink(path)} is not there: fetch the content first (in a "
                "DataLad or git-annex data set with `datalad get`), or remove the link",
                entry="link-without-content",
            )
        return InputError(
            f"{path} does not exist: check the path, or run the step that writes it first", entry="no-such-file"
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a folder, expected a regular file: name another")
    if isinstance(error, PermissionError):
        return InputError(f"{path} cannot be read ({reason}): give yourself permission to read it")
    return InputError(f"{path} cannot be read ({reason}): check the path and the disk")


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        InputError: as `open_regular`, or the file is larger than the memory of this machine.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > memory_bytes():
            raise InputError(
                f"{path} has {size} bytes, which is more than this machine has memory: check that it is the right file"
            )
        try:
            return stream.read()
        except (OSError, MemoryError) as error:
            raise cannot_read(Path(path), error) from None


@lru_cache(1)
def memory_bytes() -> int:
    """Return the memory in bytes that this process may use: the machine's, or a lower limit of account or container."""
    sizes = [1 << 62]
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS_OF_CONTAINERS:
        with suppress(OSError, ValueError):  # "max" where there is none
            sizes.append(int(path.read_text()))
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        sizes.append(limit if limit >= 0 else sizes[0])
    return min(sizes)


def read_json(path: str | os.PathLike[str], shape: Shape = Anything) -> Any:
    """Read a JSON file and check its shape.

    Args:
        path: the file.
        shape: expected shape, as in `bdfm_nnunet.json_shapes`.

    Raises:
        InputError: the file is missing, is not a regular file or not JSON, or has another shape.

    Example:
        >>> write_json("scores.json", {"dice": [0.8, float("nan")]})
        >>> read_json("scores.json", {"dice": [(float, None)]})
        {'dice': [0.8, None]}
    """
    return parse_json(read_regular(path), str(path), shape)


def parse_json(content: str | bytes, name: str, shape: Shape = Anything) -> Any:
    """Parse JSON and check its shape.

    Args:
        content: text, or its bytes in UTF-8.
        name: name of the content in messages.
        shape: expected shape, as in `bdfm_nnunet.json_shapes`.

    Raises:
        InputError: the content is not JSON, or has another shape.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        parsed = json.loads(text)
    except RecursionError:
        raise InputError(f"{name} is not usable JSON (nested too deep): restore it or write it anew") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise InputError(f"{name} is not valid JSON ({error}): restore it or write it anew") from None
    if fault := fault_of(parsed, shape):
        raise InputError(f"{name} is not as expected ({fault}): restore it or write it anew")
    return parsed


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the bytes of a regular file, as 64 hexadecimal digits.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        try:
            while block := stream.read(1 << 20):
                digest.update(block)
        except OSError as error:
            raise cannot_read(Path(path), error) from None
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- writing


@contextmanager
def write_atomically(path: str | os.PathLike[str], *, again: str = _AGAIN) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    The temporary name keeps all suffixes (writers choose the format by them) and starts with a dot. The content is
    flushed to the disk before the rename, so a crash leaves either the old file or the complete new one.

    Args:
        path: the file.
        again: end of the remedy in the message: what to do once the file can be written.

    Raises:
        InputError: the folder or the file cannot be written (no permission, full disk, a file in the folder's place).

    Example:
        >>> with write_atomically("notes.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> Path("notes.txt").read_text()
        'done'
    """
    path = Path(path)
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error, again=again) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written, before hours of work for it; its folder is made.

    Raises:
        InputError: it cannot, or is a folder.

    Example:
        >>> check_writable("new/scores.json")
        >>> Path("new").is_dir(), Path("new/scores.json").exists()
        (True, False)
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, and rename it to `path` when the block ends without an error.

    Args:
        path: the folder; it must not exist, or be empty.

    Raises:
        InputError: there is something, or the folder cannot be written.

    Example:
        >>> with new_folder("out") as temporary:
        ...     _ = (temporary / "notes.txt").write_text("done")
        >>> Path("out/notes.txt").read_text()
        'done'
    """
    path = Path(path)
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already and is not overwritten: name another folder, or move it away")
    temporary = unfinished(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON, completely or not at all; NaN and infinity become null."""
    with write_atomically(path) as temporary:
        text = json.dumps(as_json(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def as_json(content: Any) -> Any:
    """Return plain types with null in the place of NaN and infinity."""
    if isinstance(content, Mapping):
        return {key: as_json(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# ------------------------------------------------------------------------------------------------- unfinished files


def unfinished(path: Path, kind: str = "partial") -> Path:
    """Return a hidden temporary name beside `path`.

    The name holds the writing process, so that `sweep` finds the files of killed processes, and is unique among
    processes and machines that share a disk.

    Args:
        path: final path.
        kind: `partial` for content, `link` for a second name of an older file.
    """
    return path.with_name(f".{os.getpid()}.{_host()}{secrets.token_hex(2)}.{kind}.{path.name}")


def sweep(folder: str | os.PathLike[str]) -> list[str]:
    """Remove unfinished files and folders of ended processes from a folder.

    Files of other machines and containers, whose processes cannot be checked, are removed when they are a day old.

    Returns:
        Names of the removed entries.
    """
    folder = Path(folder)
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := _UNFINISHED.match(path.name)) and _is_abandoned(path, int(match["pid"]), match["host"]):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed.append(path.name)
    return removed


@lru_cache(1)
def _host() -> str:
    """Return six digits for the machine, or the container on it, in which process numbers are valid."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:6]


def is_unfinished(name: str) -> bool:
    """Return whether a name is one that `unfinished` makes, in this or another process."""
    return _UNFINISHED.match(name) is not None


def _is_abandoned(path: Path, pid: int, host: str | None) -> bool:
    if host not in (None, _host()) or os.name != "posix":  # elsewhere kill() would end the process it asks for
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > _FOREIGN_SECONDS
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
