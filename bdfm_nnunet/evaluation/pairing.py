"""Reading segmentations and pairing two folders of them, with every fault named."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.images.grids import Grid, difference, distance_mm, read_grid_by_nibabel
from bdfm_nnunet.images.label_values import read_labels
from bdfm_nnunet.images.volumes import Volume


@dataclass(frozen=True)
class Segmentation:
    """Labels (x, y, z) and the file's volume, on the grid that nnU-Net sees."""

    labels: NDArray[Any]
    volume: Volume

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel in mm, (x, y, z)."""
        return self.volume.grid.spacing


@dataclass(frozen=True)
class Pairs:
    """The cases of two folders.

    Attributes:
        both: case, reference file, prediction file.
        unpredicted: case to its reference file, without a prediction.
        unknown: case to its prediction file, without a reference.
    """

    both: list[tuple[str, Path, Path]]
    unpredicted: dict[str, Path]
    unknown: dict[str, Path]


def pair_cases(reference: Path, prediction: Path) -> Pairs:
    """Return which case of two folders has which files.

    Raises:
        InputError: a folder is missing or empty, or an entry cannot be used.
    """
    references, predictions = list_cases(reference).files, list_cases(prediction).files
    return Pairs(
        [(case, path, predictions[case]) for case, path in references.items() if case in predictions],
        {case: path for case, path in references.items() if case not in predictions},
        {case: path for case, path in predictions.items() if case not in references},
    )


def check_all_predicted(pairs: Pairs, prediction: Path) -> None:
    """Refuse a folder of predictions that lacks cases."""
    missing = next(iter(pairs.unpredicted), None)
    if missing is not None:
        total = len(pairs.both) + len(pairs.unpredicted)
        raise InputError(
            f"{prediction / (missing + '.nii.gz')} is missing ({len(pairs.unpredicted)} of {total} reference cases "
            "have no prediction): predict it, take its reference out of the folder, or score the cases that are there "
            "with --only-predicted"
        )


def check_all_known(pairs: Pairs, reference: Path) -> None:
    """Refuse predictions of cases that the folder of references does not have."""
    extra = next(iter(pairs.unknown.values()), None)
    if extra is not None:
        raise InputError(
            f"{extra} has no reference in {reference} ({len(pairs.unknown)} predictions without one): "
            "add the reference, or move the prediction away"
        )


def read_segmentation(path: Path, *, allowed: Collection[int]) -> Segmentation:
    """Read a 3-D label volume.

    Args:
        path: NIfTI file.
        allowed: label values it may hold, 0 included.

    Raises:
        InputError: the file cannot be read, is not 3-D, or holds a value that is not allowed.
    """
    volume, labels = read_labels(
        path, allowed=allowed, remedy="name the release or data set it belongs to, or map its labels first"
    )
    return Segmentation(labels, volume)


def check_same_grid(reference: Segmentation, prediction: Segmentation, path: Path) -> None:
    """Raises InputError where the prediction, read from `path`, is not on the grid of the reference.

    A prediction that nnU-Net's other reader wrote, nibabel, lies where nibabel sees the reference.
    """
    here, there = reference.volume.grid, prediction.volume.grid
    what = difference(there, here)
    if what == "shape":
        raise InputError(
            f"{path} has the shape {there.size} but its reference {here.size}: "
            "predict on the images the reference was drawn on, or resample it to their grid"
        )
    if what and not _same_to_nibabel(reference.volume, prediction.volume):
        raise InputError(
            f"{path} lies up to {distance_mm(here, there):.3g} mm from its reference (another affine): "
            "predict on the images the reference was drawn on, or resample it to their grid"
        )


def _same_to_nibabel(*volumes: Volume) -> bool:
    try:
        here, there = (_grid_of_nibabel(volume) for volume in volumes)
    except Refusal:
        return False
    return not difference(there, here)


def _grid_of_nibabel(volume: Volume) -> Grid:
    return read_grid_by_nibabel(volume.header, volume.grid.size, volume.name)
