"""A lock that keeps two conversions from writing into one folder at the same time."""

from contextlib import AbstractContextManager
from pathlib import Path

from bdfm_nnunet.locks import hold_lock

NAME = ".conversion.lock"


def only_writer(folder: Path) -> AbstractContextManager[None]:
    """Make `folder` and hold its lock inside a `with` block.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    taken = f"another process is writing {folder}: wait for it to end, or choose another number with -d"
    return hold_lock(folder / NAME, otherwise=taken)
