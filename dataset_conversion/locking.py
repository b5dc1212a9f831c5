"""Keeps two conversions from writing into one folder at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write

NAME = ".conversion.lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds its lock, which the operating system drops should this process be killed.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another process is writing {folder}: wait for it to end, or choose another number with -d"
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()
