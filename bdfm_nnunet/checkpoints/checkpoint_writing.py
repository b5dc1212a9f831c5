"""Writing checkpoints: there is always a whole one, the new or the one before."""

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
        content: what it holds.
        path: the file; one that is there stays until the new one is on the disk.
        previous: the name that this older file keeps, if any.
        again: what to do once the disk takes more.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    with write_atomically(path, again=again) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch.save reports a full disk
            reason = str(error).splitlines()[0]
            raise InputError(
                f"cannot write {path}, the disk may be full ({reason}): free some space there and {again}"
            ) from error
        if previous is not None:
            keep_before(path, previous)


def keep_before(path: Path, previous: Path) -> None:
    """Gives the checkpoint at `path` the name `previous` too, so that it outlives the new one that takes its place."""
    if not path.is_file():
        return
    link = unfinished(previous, "link")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous)
    except OSError:  # a file system without links
        path.replace(previous)
