"""Clips of the 4-D runs of a data set; what is read from the disk are the blocks of the clip."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import FOLDER, FRAMES, HEADER, MASK, SequenceHeader, read_header, read_part
from bdfm_nnunet.leftovers import is_leftover

Box = Sequence[Sequence[int]]
"""First voxel and the one behind the last, for each axis."""


class SequenceCases:
    """The runs of a data set that `bdfm convert fmri-...` has written.

    Args:
        folder: the data set, which holds `sequencesTr`, or a folder of runs such as that of preprocessed ones.
        cases: ids of the runs; all of them by default.

    Attributes:
        folder: that of the runs.
        cases: ids of the runs, sorted.

    Raises:
        InputError: there is no such folder, or none or not all of the runs are in it.
    """

    def __init__(self, folder: str | os.PathLike[str], cases: Sequence[str] | None = None) -> None:
        self.folder = Path(folder) / FOLDER
        self._headers: dict[str, SequenceHeader] = {}
        if not self.folder.is_dir():
            self.folder = Path(folder)
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        if self.folder == Path(folder) and not any(name.endswith(MASK) for name in names):
            raise InputError(
                f"{folder} has no folder {FOLDER}: name a data set that `bdfm convert fmri-...` has written"
            )
        there = {name.removesuffix(HEADER) for name in names if _is_header(name)}
        if missing := sorted(set(cases or ()) - there):
            raise InputError(f"{self.folder} has no run {missing[0]}: convert it, or leave it out")
        self.cases = tuple(sorted(there if cases is None else set(cases)))
        if not self.cases:
            raise InputError(f"{self.folder} holds no run: convert the data set again")

    def header(self, case: str) -> SequenceHeader:
        """Return what is known of a run: shape, spacing, seconds between frames, brain box, background ...

        Raises:
            InputError: its header is missing or damaged.
        """
        if case not in self._headers:
            self._headers[case] = read_header(self.folder / f"{case}{HEADER}")
        return self._headers[case]

    def mask(self, case: str, box: Box | None = None) -> NDArray[np.bool_]:
        """Return the brain mask of a run, (x, y, z), or the part of it in a box.

        Raises:
            InputError: the file is missing or damaged.
            ValueError: the box is not inside the run.
        """
        shape = self.header(case).shape[:3]
        return read_part(self.folder / f"{case}{MASK}", _slices(box, shape), shape)

    def clip(self, case: str, start: int, frames: int, box: Box | None = None) -> NDArray[np.float32]:
        """Return successive frames of a run as standard scores, (x, y, z, t).

        Args:
            case: id of the run.
            start: first frame.
            frames: how many.
            box: part of the volume; all of it by default.

        Raises:
            InputError: a file of the run is missing or damaged.
            ValueError: frames or box are not inside the run.
        """
        header = self.header(case)
        if not (frames >= 1 and 0 <= start <= header.shape[3] - frames):
            raise ValueError(f"{case} has {header.shape[3]} frames, not those from {start} to {start + frames}")
        part = (*_slices(box, header.shape[:3]), slice(start, start + frames))
        stored = read_part(self.folder / f"{case}{FRAMES}", part, header.shape)
        clip: NDArray[np.float32] = stored.astype(np.float32)
        if header.scale != 1:
            clip *= np.float32(header.scale)
        return clip


def _is_header(name: str) -> bool:
    return name.endswith(HEADER) and not name.startswith(".") and not is_leftover(name)


def _slices(box: Box | None, shape: Sequence[int]) -> tuple[slice, ...]:
    if box is None:
        return tuple(slice(0, size) for size in shape)
    if len(box) != 3 or not all(0 <= low < high <= size for (low, high), size in zip(box, shape)):
        raise ValueError(f"the box {[list(pair) for pair in box]} is not inside a volume of {list(shape)} voxels")
    return tuple(slice(low, high) for low, high in box)
