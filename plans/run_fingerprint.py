"""What the runs of a data set have in common: their grid, the time between frames, and how many frames there are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.images.sequence_files import (
    FOLDER,
    FRAMES,
    HEADER,
    MASK,
    RUN_SCORES,
    SequenceHeader,
    read_header,
    read_part,
)
from bdfm_nnunet.leftovers import is_leftover
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.safe_names import check_name

ENDINGS = (FRAMES, MASK, HEADER)
"""Of the files of a run."""
NEAR = 1e-3
"""Relative difference up to which spacings and times between frames are the same."""


@dataclass(frozen=True, kw_only=True)
class RunFingerprint:
    """The runs of a data set, which lie on grids of one shape.

    Attributes:
        shape: voxels per axis.
        spacing: millimetres per voxel and axis.
        repetition_time: seconds between frames.
        frames: id of a run to the number of its frames.
        standardised: over what its standard scores are, `run` or `voxel`.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    repetition_time: float
    frames: Mapping[str, int]
    standardised: str = RUN_SCORES

    @property
    def fewest(self) -> int:
        """Frames of the shortest run."""
        return min(self.frames.values())

    @property
    def median(self) -> int:
        """Frames of the run in the middle, by length."""
        return sorted(self.frames.values())[len(self.frames) // 2]

    def write(self, path: Path) -> None:
        """Write it in the shape of nnU-Net's fingerprints, which its trainer copies beside the results.

        Raises:
            InputError: the file cannot be written.
        """
        content = {
            "spacings": [[*self.spacing, self.repetition_time] for _ in self.frames],
            "shapes_after_crop": [[*self.shape, count] for count in self.frames.values()],
            "foreground_intensity_properties_per_channel": {},
            "median_relative_size_after_cropping": 1.0,
        }
        write_json(path, content)


def holds_runs(raw: Path) -> bool:
    """Return whether a data set of nnUNet_raw holds 4-D runs.

    Raises:
        InputError: its dataset.json cannot be used.
    """
    return "sequences" in read_dataset_json(raw / "dataset.json")


def find_runs(raw: Path) -> dict[str, list[Path]]:
    """Return the files of each run of a data set, by its id: frames, mask, header.

    Raises:
        InputError: there is no run, one lacks a file, an id cannot be a file's, or dataset.json tells another number.
    """
    folder = raw / FOLDER
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    runs = {}
    for name in names:
        if not name.endswith(HEADER) or name.startswith(".") or is_leftover(name):
            continue
        case = check_name(name.removesuffix(HEADER), f"case id in {folder}:")
        runs[case] = [folder / f"{case}{ending}" for ending in ENDINGS]
        for path in runs[case]:
            if not path.is_file():
                raise InputError(f"{path} of run {case} does not exist: convert the data set again")
    expected = read_dataset_json(raw / "dataset.json").get("numTraining", len(runs))
    if not runs or expected != len(runs):
        raise InputError(
            f"{folder} holds {len(runs)} runs, {raw / 'dataset.json'} names {expected}: convert the data set again"
        )
    return runs


def read_fingerprint(runs: Mapping[str, list[Path]]) -> RunFingerprint:
    """Read what runs have in common.

    Args:
        runs: see `find_runs`.

    Raises:
        InputError: a file is damaged, or the runs have different grids or times between frames.
    """
    frames: dict[str, int] = {}
    first: tuple[Path, SequenceHeader] | None = None
    for case, paths in runs.items():
        path, header = paths[2], read_header(paths[2])
        first = first or (path, header)
        if differing := _difference(first[1], header):
            raise InputError(
                f"{path} has {differing} of {first[0]}: a network reads runs of one grid, one time between frames and "
                "one kind of scores, convert all with the same --spacing, --size, --time-step and --standardise"
            )
        _check_arrays(paths, header)
        frames[case] = header.shape[3]
    assert first is not None
    header = first[1]
    return RunFingerprint(
        shape=header.shape[:3],
        spacing=header.spacing,
        repetition_time=header.repetition_time,
        frames=frames,
        standardised=header.standardised,
    )


def _difference(one: SequenceHeader, other: SequenceHeader) -> str:
    """Return what another run has in place of the same of the first one, in words; empty if they fit each other."""
    if one.shape[:3] != other.shape[:3]:
        return f"{_times(other.shape[:3])} voxels, not the {_times(one.shape[:3])}"
    if not all(near(a, b) for a, b in zip(one.spacing, other.spacing)):
        return f"voxels of {_times(other.spacing)} mm, not the {_times(one.spacing)} mm"
    if not near(one.repetition_time, other.repetition_time):
        return f"{other.repetition_time:g} s between frames, not the {one.repetition_time:g} s"
    if one.standardised != other.standardised:
        return f"standard scores of each {other.standardised}, not of each {one.standardised}"
    return ""


def near(a: float, b: float) -> bool:
    """Return whether two spacings, or two times between frames, are the same."""
    return abs(a - b) <= NEAR * max(abs(a), abs(b))


def _times(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _check_arrays(paths: list[Path], header: SequenceHeader) -> None:
    """Read one voxel of frames and mask, so that a file that ends early or has another shape is found here."""
    corner = tuple(slice(size - 1, size) for size in header.shape)
    read_part(paths[0], corner, header.shape)
    read_part(paths[1], corner[:3], header.shape[:3])
