"""Checksums of preprocessed files: written after preprocessing, compared when a training first opens a file.

The file of checksums lies beside the folder, in which nnU-Net allows only arrays and properties. A CRC-32 finds damage
and files that another program has rewritten; it does not protect against attacks.
"""

import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_read, open_regular, read_json, write_json

_SHAPE = {"files": {str: [int]}, "labels": {str: [int]}}


def checksums_path(folder: Path) -> Path:
    """Return the path of the checksums of a folder of preprocessed data."""
    return folder.with_name(f"{folder.name}_checksums.json")


def write_checksums(folder: Path, labels: Mapping[str, str | os.PathLike[str]], *, workers: int) -> None:
    """Write the checksums of all files in a folder of preprocessed data beside it.

    Args:
        folder: folder of the data.
        labels: case id -> label file that the case was made from; its checksum is recorded too.
        workers: number of reading threads.

    Raises:
        InputError: a file cannot be read or written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with ThreadPoolExecutor(workers) as pool:
        sums = pool.map(size_and_crc, files)
        found = {path.name: list(each) for path, each in zip(files, sums)}
        sums = pool.map(size_and_crc, labels.values())
        noted = {case: [*each, os.stat(labels[case]).st_mtime_ns] for case, each in zip(labels, sums)}
    write_json(checksums_path(folder), {"files": found, "labels": noted})


def size_and_crc(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the number of bytes of a regular file and their CRC-32.

    Raises:
        InputError: the file cannot be read.
    """
    size = crc = 0
    with open_regular(path) as stream:
        try:
            while block := stream.read(1 << 20):
                size, crc = size + len(block), zlib.crc32(block, crc)
        except OSError as error:
            raise cannot_read(Path(path), error) from None
    return size, crc


class Checksums:
    """The checksums of a folder of preprocessed data.

    Each file is read completely the first time that a process asks; processes forked later do not read it again.

    Args:
        folder: folder of the data.
        content: content of the file beside it.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self._content = content
        self._places = {name: place for place, name in enumerate(content["files"])}
        self._verified = mmap.mmap(-1, max(len(self._places), 1))

    def __reduce__(self) -> Any:
        return Checksums, (self.folder, self._content)

    @staticmethod
    def of(folder: Path) -> "Checksums | None":
        """Return the checksums beside a folder; None if `bdfm plan` did not preprocess the data.

        Raises:
            InputError: their file is damaged.
        """
        path = checksums_path(folder)
        return _read(folder, path.stat().st_mtime_ns) if os.path.lexists(path) else None

    def verify(self, name: str) -> None:
        """Raise InputError if the file of this name has changed since preprocessing."""
        place, path = self._places.get(name), self.folder / name
        if place is None or self._verified[place] or not os.path.lexists(path):
            return  # whoever opens a missing file says so
        if list(size_and_crc(path)) != self._content["files"][name]:
            raise InputError(
                f"{path} is not as it was preprocessed (its checksum differs: it is damaged, or was made anew by "
                "another program): delete it and preprocess the data set again with `bdfm plan`, or delete "
                f"{checksums_path(self.folder)} to use the data as it is",
                entry="data-changed",
            )
        self._verified[place] = 1

    @property
    def files(self) -> dict[str, tuple[int, int]]:
        """Name of each file -> its size in bytes and CRC-32."""
        return {name: (size, crc) for name, (size, crc) in self._content["files"].items()}

    @property
    def cases(self) -> list[str]:
        """Cases with a recorded label file."""
        return list(self._content["labels"])

    def sizes_fit(self) -> bool:
        """Return whether all files exist with their recorded sizes; their content is not read."""
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}
        return all(sizes.get(name) == size for name, (size, _) in self._content["files"].items())

    def replaced_labels(self, labels: Mapping[str, str | os.PathLike[str]]) -> Iterable[str]:
        """Yield the cases whose label file has changed since preprocessing.

        Args:
            labels: case id -> label file; missing files are skipped.
        """
        for case, (size, crc, time) in self._content["labels"].items():
            if case not in labels or not os.path.isfile(labels[case]):
                continue
            status = os.stat(labels[case])
            if (status.st_size, status.st_mtime_ns) == (size, time):
                continue
            if status.st_size != size or size_and_crc(labels[case]) != (size, crc):
                yield case


@lru_cache(8)
def _read(folder: Path, written: int) -> Checksums:
    path = checksums_path(folder)
    content = read_json(path, _SHAPE)
    pairs, triples = content["files"].values(), content["labels"].values()
    if any(len(pair) != 2 for pair in pairs) or any(len(triple) != 3 for triple in triples):
        raise InputError(f"{path} is not as expected: delete it, or preprocess the data set again with `bdfm plan`")
    return Checksums(folder, content)
