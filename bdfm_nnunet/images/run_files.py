"""Reader of 4-D runs: frames come in blocks, so that no run is ever in memory as a whole."""

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal import igzip
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import open_regular
from bdfm_nnunet.images.grids import Grid
from bdfm_nnunet.images.gzip_files import GZIP, IsalError, read_bytes
from bdfm_nnunet.images.header_pairs import read_pair
from bdfm_nnunet.images.image_faults import Damaged, WrongAxes
from bdfm_nnunet.images.volumes import HEADER_2, grid_of, header_of_one, parse_header, scaling_of

SMALL = 4096
"""Files up to this size are read whole first, which tells empty ones and pointers of git-annex from runs."""
_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
"""Seconds by the code of a unit of time; further codes are of other things. Code 0 tells no unit."""


@dataclass(frozen=True)
class RunFile:
    """A file with the frames of a run.

    Attributes:
        name: name of the file in messages.
        path: the file.
        header: nibabel's header.
        shape: voxels and frames, (x, y, z, t).
        grid: positions of the voxels.
        start: byte of the first voxel.
        stored: values of a file that was read whole, (x, y, z, t); None where frames are read one after the other.
        note: on how the file was read.
    """

    name: str
    path: Path
    header: Any
    shape: tuple[int, ...]
    grid: Grid
    start: int = 0
    stored: NDArray[Any] | None = None
    note: str = ""

    @property
    def repetition_time(self) -> float | None:
        """Seconds between frames as the header tells them, by its unit; None where it does not."""
        factor = _SECONDS.get(int(self.header["xyzt_units"]) & 56)
        value = float(self.header["pixdim"][4])
        return float(f"{value * factor:.7g}") if factor and math.isfinite(value) and value > 0 else None

    @property
    def names_unit_of_time(self) -> bool:
        """Whether the header says in which unit its times are."""
        return bool(int(self.header["xyzt_units"]) & 56)

    def blocks(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Yield successive frames with the header's scaling, (x, y, z, `count` or fewer at the end).

        Raises:
            Refusal: the file is damaged, ends early, or has values that are not finite.
        """
        slope, intercept = scaling_of(self.header, self.name)
        first = 0
        for stored in self._stored_blocks(count):
            with np.errstate(over="ignore", invalid="ignore"):
                block = np.asarray(apply_read_scaling(stored, slope, intercept)).astype(np.float32)
            self._check_finite(block, first)
            yield block
            first += block.shape[3]

    def _check_finite(self, block: NDArray[np.float32], first: int) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            frame = first + int(np.argmin(finite.all(axis=(0, 1, 2))))
            raise Refusal(
                f"{self.name} has {np.count_nonzero(~finite)} voxels that are NaN or infinite from frame {frame} on: "
                "repair it or leave the run out"
            )

    def _stored_blocks(self, count: int) -> Iterator[NDArray[Any]]:
        frames = range(0, self.shape[3], count)
        if self.stored is not None:
            yield from (self.stored[..., first : first + count] for first in frames)
            return
        type_ = self.header.get_data_dtype()
        with closing(_open(self.path, self.name)) as stream:
            _read(stream, self.start, self.name)
            for first in frames:
                shape = (*self.shape[:3], min(count, self.shape[3] - first))
                content = _read(stream, math.prod(shape) * type_.itemsize, self.name)
                yield np.frombuffer(content, type_).reshape(shape, order="F")
            _read_to_end(stream, self.name)


def open_run(path: Path, name: str) -> RunFile:
    """Open the file of a run, `.nii.gz`, `.nii`, `.img` or `.hdr` (ending in any case); its frames are not read yet.

    Args:
        path: the file.
        name: name of the file in messages.

    Raises:
        Refusal: the file is damaged, has a format that is not read, or is not four-dimensional.
    """
    if path.suffix.lower() in (".img", ".hdr"):
        header, stored, note = read_pair(path, name)
        shape = _checked_shape(stored.shape, name)
        return RunFile(name, path, header, shape, _grid(header, shape, name), 0, stored.reshape(shape, order="F"), note)
    if _size(path, name) <= SMALL:
        read_bytes(path, name)
    with closing(_open(path, name)) as stream:
        head = _read(stream, HEADER_2, name, least=0)
    try:
        header, shape, start = parse_header(head, name, by_nibabel=True)
    except WrongAxes as error:
        raise _wrong_axes(name, error.shape) from None
    shape = _checked_shape(shape, name)
    _check_size(path, name, start + math.prod(shape) * header.get_data_dtype().itemsize)
    return RunFile(name, path, header, shape, _grid(header, shape, name), start)


def _grid(header: Any, shape: Sequence[int], name: str) -> Grid:
    """Return the grid of one frame, by the same readers as that of a mask."""
    return grid_of(header_of_one(header, shape[:3]), tuple(shape[:3]), name, None, by_nibabel=True)[0]


def _checked_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in shape)
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 4:
        raise _wrong_axes(name, shape)
    if shape[3] == 1:
        raise Refusal(f"{name} has one frame only, where a run of many was expected: leave it out")
    return shape


def _wrong_axes(name: str, shape: Sequence[int]) -> Refusal:
    found = " x ".join(map(str, shape))
    if len(shape) == 3:
        return Refusal(
            f"{name} is 3-D ({found}) where a 4-D run was expected: name the runs, or convert it with a release of "
            "volumes"
        )
    return Refusal(f"{name} is {found} where a run of numbers on four axes was expected: export it again")


# ------------------------------------------------------------------------------------------------------------ bytes


def _size(path: Path, name: str) -> int:
    try:
        with open_regular(path) as stream:
            return os.fstat(stream.fileno()).st_size
    except InputError as error:
        raise Refusal(str(error).replace(str(path), name, 1)) from None


def _check_size(path: Path, name: str, needed: int) -> None:
    size = _size(path, name)
    if path.suffix.lower() != ".gz" and size < needed:
        raise Damaged(name, f"is truncated ({size} of {needed} bytes)")


def _open(path: Path, name: str) -> IO[bytes]:
    """Open a file for reading of its content, uncompressed if it is called `.gz`."""
    try:
        stream = open_regular(path)
    except InputError as error:
        raise Refusal(str(error).replace(str(path), name, 1)) from None
    if path.suffix.lower() != ".gz":
        return stream
    if stream.read(2) != GZIP:
        stream.close()
        raise Damaged(name, "is not a gzip file")
    stream.seek(0)
    return _Gzip(stream)  # type: ignore[return-value]


class _Gzip(igzip.IGzipFile):
    """A gzip stream that closes the file below it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(fileobj=stream)
        self.below = stream

    def close(self) -> None:
        super().close()
        self.below.close()


def _read(stream: IO[bytes], count: int, name: str, *, least: int | None = None) -> bytes:
    """Read `count` bytes, or at least `least`."""
    try:
        content = stream.read(count)
    except EOFError:
        raise Damaged(name, "is a truncated gzip file") from None
    except (gzip.BadGzipFile, IsalError) as error:
        raise Damaged(name, f"is a damaged gzip file ({error})") from None
    except OSError as error:
        raise Refusal(f"{name} cannot be read ({error.strerror}): check the disk") from None
    except (MemoryError, OverflowError):
        raise Damaged(name, "asks in its header for more than the memory of this machine", "check the file") from None
    if len(content) < (count if least is None else least):
        raise Damaged(name, "is truncated (it has fewer frames than its header says)")
    return content


def _read_to_end(stream: IO[bytes], name: str) -> None:
    """Read what is left, by which a gzip file checks its checksum."""
    while _read(stream, 1 << 20, name, least=0):
        pass
