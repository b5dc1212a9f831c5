"""Locks on files; the operating system releases them when their process ends in any way."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(path: Path, *, otherwise: str, wait: float = 0.0, remove: bool = False) -> Iterator[None]:
    """Hold a lock file for the duration of a `with` block; a missing folder is created.

    On a disk without locks it only logs a warning.

    Args:
        path: the lock file.
        otherwise: message of the error if another process holds the lock.
        wait: seconds to wait for the other process.
        remove: remove the file at the end, for folders of results; who waited for it then makes a new one, which
            filelock sees to.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written.

    Example:
        >>> with hold_lock(Path("results/.lock"), otherwise="another training writes to results: wait for it"):
        ...     pass  # write files
    """
    lock = FileLock(path, timeout=wait)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(otherwise) from None
    except NotImplementedError:
        logger.warning("%s is on a disk without locks: see to it that no other process writes there", path.parent)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file for the duration of a `with` block, unless another process does, and tell which it is.

    A missing folder is created. On a disk without locks every process is told that it holds it, after a warning.

    Args:
        path: the lock file.

    Raises:
        InputError: the folder cannot be written.

    Example:
        >>> with lock_if_free(Path("results/.task.lock")) as mine:
        ...     mine
        True
    """
    lock = FileLock(path, timeout=0)
    mine = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        mine = False
    except NotImplementedError:
        logger.warning("%s is on a disk without locks: see to it that no other process writes there", path.parent)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        yield mine
    finally:
        if mine:
            lock.release()
