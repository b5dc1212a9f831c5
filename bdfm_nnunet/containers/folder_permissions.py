"""Folders that a container under attack may read or write, and whether it has changed them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def listing(source: Path) -> list[tuple[str, int, int]]:
    """Return path, size and time of all that is in a folder."""
    found = []
    for folder, folders, files in os.walk(source):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), status.st_size, status.st_mtime_ns))
    return sorted(found)


@contextmanager
def only_readable(folder: Path) -> Iterator[None]:
    """Take away the permission to write for the length of a block; what is closed altogether stays so."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not path.is_symlink() and (mode := stat.S_IMODE(path.stat().st_mode)):
                path.chmod(mode & ~0o222 | (0o555 if path.is_dir() else 0o444))
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


@contextmanager
def open_to_all(folder: Path) -> Iterator[None]:
    """Let everybody write into a folder, as organisers do for their mounts."""
    folder.chmod(0o777)
    yield


def open_again(folder: Path) -> None:
    """Give back all permissions, so that the folder can be removed."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            if not Path(place, name).is_symlink():
                Path(place, name).chmod(0o755)
