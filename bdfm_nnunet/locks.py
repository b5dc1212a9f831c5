"""Locks on files, which the operating system drops when their process ends, however it ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(path: Path, *, otherwise: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file, whose folder is made where it is missing, for the length of a `with` block.

    On a disk that knows no locks a warning is all.

    Args:
        path: the lock file.
        otherwise: what the error says where another process holds it.
        wait: seconds to wait for that one.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
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
        lock.release()
