"""The images to predict: found case by case, and checked before the first case is predicted."""

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes, open_regular
from bdfm_nnunet.images.case_folders import NIFTI, list_cases
from bdfm_nnunet.images.channels import check_grid, read_channels, read_whole
from bdfm_nnunet.images.grids import Grid, difference, distance_mm
from bdfm_nnunet.names import check_name

logger = logging.getLogger(__name__)

MOST_FAULTS = 20
BYTES = 4
"""Of a voxel, as nnU-Net computes."""
_AGAIN = "copy or export it again"


@dataclass(frozen=True)
class ImagesWanted:
    """What a model reads.

    Attributes:
        channels: names of its channels.
        ending: of its files.
        reader: makes nnU-Net's reader.
        by_nibabel: whether that reader takes what SimpleITK does not.
        spacing: to which images are resampled, axis by axis as `transpose` orders them.
        transpose: order of the axes (z, y, x) in the network.
    """

    channels: Sequence[str]
    ending: str
    reader: Callable[[], Any]
    by_nibabel: bool
    spacing: Sequence[float]
    transpose: Sequence[int]

    @classmethod
    def of(cls, plans: Any, configuration: Any, channels: Sequence[str], ending: str) -> "ImagesWanted":
        """What nnU-Net's views of plans and configuration say."""
        by_nibabel = plans.plans.get("image_reader_writer") != "SimpleITKIO"
        return cls(
            channels, ending, plans.image_reader_writer_class, by_nibabel, configuration.spacing,
            plans.transpose_forward,
        )  # fmt: skip


def find_cases(source: str | list[list[str]], wanted: ImagesWanted) -> list[list[str]]:
    """Return the files of each case, in the order of channels.

    Args:
        source: the folder of the images, or the files of each case.
        wanted: by the model.

    Raises:
        InputError: the folder does not exist or holds no images, a file is not named after a case and a channel, or a
            case lacks a channel or has others.
    """
    cases = source if not isinstance(source, str) else _cases_in(Path(source), wanted.ending)
    for files in cases:
        _check_channels(files, wanted)
    return cases


def _cases_in(folder: Path, ending: str) -> list[list[str]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name the folder of the images with -i")
    if not any(name.lower().endswith(ending.lower()) for name in os.listdir(folder)):
        raise InputError(f"{folder} has no file that ends in {ending}, as the training images do: name another -i")
    cases: dict[str, list[str]] = {}
    for name, path in list_cases(folder, endings=[ending], what="images").files.items():
        parts = re.fullmatch(r"(.+)_\d{4}", name, flags=re.DOTALL)
        if parts is None:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise InputError(
                f"{shown} is not named after a case and a channel: name it CASE_0000{ending}, or move it away"
            )
        cases.setdefault(check_name(parts[1], f"case id in {folder}:"), []).append(str(path))
    return [sorted(cases[case]) for case in sorted(cases)]


def _check_channels(files: Sequence[str], wanted: ImagesWanted) -> None:
    """Every channel must be there once; in formats other than NIfTI one file may hold several, such as colours."""
    count, ending = len(wanted.channels), wanted.ending
    numbers = [file.removesuffix(ending)[-5:] for file in files]
    whole = numbers == [f"_{channel:04d}" for channel in range(len(files))]
    if files and whole and (len(files) == count or (ending not in NIFTI and len(files) < count)):
        return
    case = files[0] if files else "a case"
    raise InputError(
        f"{case} is one of {len(files)} files, the model needs {count} ({', '.join(wanted.channels)}): "
        f"name them CASE_0000{ending} to CASE_{count - 1:04d}{ending}"
    )


# --------------------------------------------------------------------------------------------------------- checking


def check_cases(
    cases: Sequence[Sequence[str]], previous: Sequence[str | None], wanted: ImagesWanted, *, workers: int
) -> None:
    """Read all images and refuse all cases if one cannot be used, as `bdfm convert` and `bdfm plan` do.

    Args:
        cases: the files of each.
        previous: segmentation of a cascade's stage before, for each.
        wanted: by the model.
        workers: cases that are read at once.

    Raises:
        InputError: the first fault; those of other cases are logged.
    """
    check = partial(_fault_of, wanted=wanted)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # mostly decompression, which runs beside other threads
        found = pool.map(check, cases, previous)
        faults = [f for f in tqdm(found, total=len(cases), desc="checking images", unit="case", disable=None) if f]
    for fault in faults[1 : MOST_FAULTS + 1]:
        logger.error("%s", fault)
    if faults:
        others = f" ({len(faults) - 1} other cases have faults too)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}; nothing was predicted")


def _fault_of(files: Sequence[str], previous: str | None, *, wanted: ImagesWanted) -> InputError | None:
    try:
        if wanted.ending in NIFTI:
            size, spacing = _check_nifti([Path(file) for file in files], previous, wanted)
        else:
            size, spacing = _check_by_reader(files, previous, wanted)
        _check_memory(files[0], size, spacing, wanted)
    except InputError as fault:
        return fault
    return None


def _check_nifti(
    files: Sequence[Path], previous: str | None, wanted: ImagesWanted
) -> tuple[Sequence[int], Sequence[float]]:
    """Voxels and millimetres along z, y, x."""
    first = read_channels(files, by_nibabel=wanted.by_nibabel, again=_AGAIN)
    if previous is not None:
        check_grid(read_whole(Path(previous), by_nibabel=wanted.by_nibabel, again="predict it again"), first)
    return first.grid.size[::-1], first.grid.spacing[::-1]


def _check_by_reader(
    files: Sequence[str], previous: str | None, wanted: ImagesWanted
) -> tuple[Sequence[int], Sequence[float]]:
    """The same for formats that nnU-Net's readers alone know."""
    channels = 0
    first: tuple[str, Any, Mapping[str, Any]] | None = None
    for file in [*files, *([previous] if previous else [])]:
        open_regular(file).close()
        try:
            values, properties = wanted.reader().read_images([file])
        except Exception as error:  # every library behind nnU-Net's readers has errors of its own
            reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
            raise InputError(f"{file} cannot be read ({reason}): {_AGAIN}") from error
        first = first or (file, values, properties)
        _check_same_place((file, values, properties), first)
        if file != previous:
            channels += len(values)
            _check_values(file, values)
    assert first is not None
    if channels != len(wanted.channels):
        raise InputError(f"{files[0]} and its like hold {channels} channels, the model needs {len(wanted.channels)}")
    return first[1].shape[1:], [float(step) for step in first[2]["spacing"]]


def _check_values(file: str, values: Any) -> None:
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise InputError(f"{file} has {bad} voxels that are NaN or infinite: repair it or remove the case")
    for channel in values:
        if channel.min() == channel.max():
            raise InputError(f"{file} is empty (every voxel is {channel.flat[0]:g}): {_AGAIN} or remove the case")


def _check_same_place(image: tuple[str, Any, Mapping[str, Any]], first: tuple[str, Any, Mapping[str, Any]]) -> None:
    shape, other = image[1].shape[1:], first[1].shape[1:]
    if shape != other:
        sizes = " and ".join(" x ".join(map(str, each)) for each in (shape, other))
        raise InputError(
            f"{image[0]} has another shape than {first[0]} ({sizes} voxels): resample the images of a case to one grid"
        )
    grids = [_grid_of(values, properties) for _, values, properties in (image, first)]
    if grids[0] is not None and grids[1] is not None and difference(grids[0], grids[1]):
        raise InputError(
            f"{image[0]} lies up to {distance_mm(grids[0], grids[1]):.3g} mm from {Path(first[0]).name} (another "
            "affine): register the files, or remove the case"
        )


def _grid_of(values: Any, properties: Mapping[str, Any]) -> Grid | None:
    """The grid of an image that SimpleITK has read, in three dimensions; other readers tell none."""
    place = properties.get("sitk_stuff")
    if place is None or len(place["spacing"]) != 3:
        return None
    return Grid(values.shape[:0:-1], place["spacing"], place["origin"], place["direction"])


def _check_memory(file: str, size: Sequence[int], spacing: Sequence[float], wanted: ImagesWanted) -> None:
    """Refuses what the plans' spacing would blow up beyond all memory."""
    order = list(wanted.transpose)
    axes = [(size[axis], spacing[axis]) for axis in order][len(order) - len(wanted.spacing) :]
    factor = math.prod(mm / target for (_, mm), target in zip(axes, wanted.spacing))
    needed = BYTES * len(wanted.channels) * math.prod(size) * factor
    if needed > memory_bytes():
        raise InputError(
            f"{file} would have {needed / 2**30:,.0f} GiB at the spacing of the model's plans "
            f"({' x '.join(f'{step:g}' for step in wanted.spacing)} mm), more than this machine has memory: check "
            "plans.json, or use a larger machine"
        )
