"""Writing of checkpoints: a whole one is always there, the new or the one before."""

import os
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import unfinished, write_atomically


def write_checkpoint(
    content: Any,
    path: str | os.PathLike[str],
    *,
    previous: Path | None = None,
    again: str = "run the command again",
) -> None:
    """Save a checkpoint with `torch.save`, whole or not at all.

    Args:
        content: of the checkpoint.
        path: the file; an older one of this name stays until the new one is on the disk.
        previous: another name under which the older file is kept; None: it is replaced.
        again: advice for the error, after "free some space there and".

    Raises:
        InputError: it cannot be written.

    Example:
        >>> write_checkpoint({"epoch": 1}, "latest.pth")
        >>> write_checkpoint({"epoch": 2}, "latest.pth", previous=Path("previous.pth"))
        >>> torch.load("latest.pth"), torch.load("previous.pth")
        ({'epoch': 2}, {'epoch': 1})
    """
    path = Path(path)
    with write_atomically(path, again=again) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch.save reports a full disk
            reason = str(error).splitlines()[0]
            raise InputError(
                f"cannot write {path}, the disk may be full ({reason}): free some space there and {again}",
                entry="disk-full",
            ) from error
        if previous is not None:
            keep_before(path, previous)


def keep_before(path: Path, previous: Path) -> None:
    """Give the checkpoint at `path` the name `previous` too, so that it outlives the one that replaces it.

    Example:
        >>> _ = Path("latest.pth").write_bytes(b"first")
        >>> keep_before(Path("latest.pth"), Path("previous.pth"))
        >>> Path("previous.pth").read_bytes()
        b'first'
    """
    if not path.is_file():
        return
    link = unfinished(previous, "link")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous)
    except OSError:  # a file system without links
        path.replace(previous)
