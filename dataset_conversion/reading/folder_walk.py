"""A walk through the folders of a download, which notes what it does not look into."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.volume_endings import without_ending
from bdfm_nnunet.leftovers import is_leftover, is_leftover_folder

MOST_NAMES = 5


@dataclass
class Walk:
    """The folders of a download, each once; links are followed.

    Attributes:
        source: the download.
        leave_out: a folder that is not looked into.
        lenient: whether to pass over folders that cannot be read.
        junk: left-overs of operating systems, relative paths.
        hidden: folders whose names begin with a dot, which programs use for their own stores (`.git`, `.datalad`).
        like_volumes: folders that are named like a volume.
        lost: links without an ending of a volume whose targets are not there.
        unreadable: folders that were passed over.
    """

    source: Path
    leave_out: Path | None = None
    lenient: bool = False
    junk: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    like_volumes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def folders(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield folders in a fixed order: the path with a slash at its end, its folders, its files.

        Raises:
            InputError: a folder cannot be read, and the walk is not lenient.
        """
        seen: set[tuple[int, int]] = set()
        if self.leave_out is not None and self.leave_out.exists():
            seen.add(identity(self.leave_out))
        root = str(self.source)
        for folder, folders, files in os.walk(self.source, followlinks=True, onerror=self._cannot_read):
            if identity(folder) in seen:
                folders.clear()
                continue
            seen.add(identity(folder))
            folders.sort()
            prefix = folder[len(root) :].strip(os.sep).replace(os.sep, "/")
            prefix = prefix + "/" if prefix else ""
            folders[:] = [name for name in folders if self._is_looked_into(prefix, name)]
            yield prefix, folders, _pairs_once([name for name in sorted(files) if self._is_taken(prefix, name, folder)])

    def _cannot_read(self, error: OSError) -> None:
        if not self.lenient:
            raise InputError(f"{error.filename} cannot be read ({error.strerror}): give yourself permission to read it")
        self.unreadable.append(str(error.filename)[len(str(self.source)) :].strip(os.sep))

    def _is_looked_into(self, prefix: str, name: str) -> bool:
        if is_leftover_folder(name):
            self.junk.append(f"{prefix}{name}/")
            return False
        if name.startswith("."):
            self.hidden.append(f"{prefix}{name}")
            return False
        if without_ending(name) is not None:
            self.like_volumes.append(f"{prefix}{name}")
        return True

    def _is_taken(self, prefix: str, name: str, folder: str) -> bool:
        if is_leftover(name):
            self.junk.append(prefix + name)
            return False
        if without_ending(name) is None and _is_lost(os.path.join(folder, name)):
            self.lost.append(prefix + name)
            return False
        return True

    def notes(self) -> list[str]:
        """Return sentences on what was passed over, left-overs aside."""
        found = (
            (self.hidden, "folders whose names begin with a dot, which were not looked into"),
            (self.like_volumes, "folders that are named like a volume, which were looked into"),
            (
                self.lost,
                "links whose targets are not there, to be fetched first (in a DataLad data set with `datalad get`)",
            ),
            (self.unreadable, "folders that must not be read"),
        )
        return [f"{what} ({len(paths)}): {some(paths)}" for paths, what in found if paths]


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def identity(path: str | Path) -> tuple[int, int]:
    """Return what tells a file or folder from any other, whatever path leads to it.

    Raises:
        OSError: there is none.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _pairs_once(names: list[str]) -> list[str]:
    """Leave out the header of an Analyze or NIfTI pair, which its image stands for."""
    images = {name[:-4] for name in names if name.lower().endswith(".img")}
    return [name for name in names if not (name.lower().endswith(".hdr") and name[:-4] in images)]


def _is_lost(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)
