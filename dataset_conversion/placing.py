"""Puts files into the nnU-Net data set: copied, linked, compressed or rewritten, always whole or not at all."""

import errno
import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, write_atomically

LINKS = ("copy", "hard", "sym")
FAST = 1
"""gzip level of what is written anew: label maps shrink well at any level, and images are rarely recompressed."""


def place(source: Path, target: Path, *, link: str) -> None:
    """Puts an unchanged volume at `target`, which ends in `.nii.gz`; a `.nii` file is compressed whatever `link` says.

    Raises:
        InputError: `target` cannot be written, or cannot be linked to `source`.
    """
    if source.suffix != ".gz":
        with (
            write_atomically(target) as temporary,
            source.open("rb") as plain,
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=FAST, mtime=0) as packed,
        ):
            shutil.copyfileobj(plain, packed, 1 << 20)
    elif link == "copy":
        with write_atomically(target) as temporary:
            shutil.copyfile(source, temporary)
    else:
        _link(source.resolve(), target, symbolic=link == "sym")


def _link(source: Path, target: Path, *, symbolic: bool) -> None:
    temporary = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        if symbolic:
            temporary.symlink_to(source)
        else:
            os.link(source, temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EMLINK, errno.ENOTSUP):
            raise InputError(
                f"{target} cannot be a hard link to {source} ({error.strerror}): use --link sym or --link copy"
            ) from None
        raise cannot_write(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)  # replace() leaves it where target was the same hard link already


def remove(path: Path) -> None:
    """Removes a file of the data set if it is there.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_labels(labels: np.ndarray, target: Path, *, like: Path) -> None:
    """Writes a label map, (x, y, z), on the grid of the file `like`.

    Raises:
        InputError: `target` cannot be written.
    """
    values = np.ascontiguousarray(labels, dtype=np.uint8)
    header: Any = nib.load(like).header.copy()
    header.set_data_dtype(np.uint8)
    content = nib.Nifti1Image(values, None, header).to_bytes()
    with write_atomically(target) as temporary:
        temporary.write_bytes(gzip.compress(content, compresslevel=FAST, mtime=0))
