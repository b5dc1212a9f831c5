"""Placing files in the nnU-Net data set: copied, linked or written anew, always whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, unfinished
from bdfm_nnunet.images.nifti_bytes import packed_values, packed_volume

LINKS = ("copy", "hard", "sym")
MOST_AT_ONCE = 1 << 30


def place_file(source: Path, target: Path, *, link: str) -> None:
    """Put an unchanged `.nii.gz` file at `target`.

    Raises:
        InputError: `target` cannot be written, or cannot be linked to `source`.
    """
    with writing(target) as temporary:
        if link == "copy":
            _copy(source, temporary)
        elif link == "sym":
            temporary.symlink_to(source.resolve())
        else:
            _hard_link(source.resolve(), temporary, target)


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it at the end of the block.

    Unlike `write_atomically` it does not wait for the disk, five times a case: should the power fail, the resume log's
    sizes tell which files to write again.

    Raises:
        InputError: `target` cannot be written.
    """
    temporary = unfinished(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()  # replace() leaves it where target was the same hard link already


def _copy(source: Path, target: Path) -> None:
    """Let the file system share the blocks where it can, and the kernel copy them where it cannot."""
    if hasattr(os, "copy_file_range"):
        try:
            with source.open("rb") as there, target.open("wb") as here:
                while os.copy_file_range(there.fileno(), here.fileno(), MOST_AT_ONCE):
                    pass
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
    shutil.copyfile(source, target)


def _hard_link(source: Path, temporary: Path, target: Path) -> None:
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EPERM):
            raise
        raise InputError(
            f"{target} cannot be a hard link to {source} ({error.strerror}): use --link sym or --link copy"
        ) from None


def remove(path: Path) -> None:
    """Remove a file of the data set if it is there.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_volume(header: Any, stored: np.ndarray, target: Path) -> None:
    """Write one volume as `.nii.gz`.

    Args:
        header: of a single NIfTI-1 file with the type, size, scaling and position of the volume.
        stored: values as stored in the file, (x, y, z).
        target: path of the file.

    Raises:
        InputError: `target` cannot be written.
    """
    with writing(target) as temporary:
        temporary.write_bytes(packed_volume(header, stored))


def write_values(values: np.ndarray, target: Path, *, like: Any) -> None:
    """Write values without scaling, (x, y, z), on the grid of the header `like`.

    Raises:
        InputError: `target` cannot be written.
    """
    with writing(target) as temporary:
        temporary.write_bytes(packed_values(values, like=like))
