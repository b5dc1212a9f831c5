"""Writing checkpoints: there is always a whole one, the new or the one before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import unfinished, write_atomically


@contextmanager
def write_checkpoint(
    path: str | os.PathLike[str], *, remedy: str = "free some space there and run the command again"
) -> Iterator[Path]:
    """Yields a temporary path for `torch.save` that takes the place of `path` once it is whole.

    Raises:
        InputError: it cannot be written; the sentence ends in `remedy` where the disk took no more.
    """
    try:
        with write_atomically(path) as temporary:
            yield temporary
    except RuntimeError as error:  # how torch.save reports a full disk
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot write {path}, the disk may be full ({reason}): {remedy}") from error


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
