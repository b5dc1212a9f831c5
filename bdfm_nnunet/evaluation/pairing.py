"""Pairs of reference and predicted segmentations from two folders; every fault is named."""

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
    """A label map on the grid that nnU-Net sees.

    Attributes:
        labels: labels (x, y, z).
        volume: the file's header and grid.

    Example:
        >>> segmentation = read_segmentation(Path("labels/BraTS-GLI-00001-000.nii.gz"), allowed=(0, 1, 2, 3))
        >>> segmentation.labels.shape, segmentation.spacing
        ((24, 24, 24), (1.0, 1.0, 1.0))
    """

    labels: NDArray[Any]
    volume: Volume

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along (x, y, z)."""
        return self.volume.grid.spacing


@dataclass(frozen=True)
class Pairs:
    """The cases of two folders.

    Attributes:
        both: case, reference file and prediction file of every case that has both.
        unpredicted: case -> its reference file, for cases without a prediction.
        unknown: case -> its prediction file, for cases without a reference.

    Example:
        >>> len(pair_cases(Path("labels"), Path("predictions")).both)
        3
    """

    both: list[tuple[str, Path, Path]]
    unpredicted: dict[str, Path]
    unknown: dict[str, Path]


def pair_cases(reference: Path, prediction: Path) -> Pairs:
    """Pair the files of two folders by case.

    Raises:
        InputError: a folder is missing or empty, or an entry cannot be used.

    Example:
        >>> pairs = pair_cases(Path("labels"), Path("predictions"))
        >>> case, reference, prediction = pairs.both[0]
        >>> case, prediction.name, pairs.unpredicted
        ('BraTS-GLI-00001-000', 'BraTS-GLI-00001-000.nii.gz', {})
    """
    references, predictions = list_cases(reference).files, list_cases(prediction).files
    return Pairs(
        [(case, path, predictions[case]) for case, path in references.items() if case in predictions],
        {case: path for case, path in references.items() if case not in predictions},
        {case: path for case, path in predictions.items() if case not in references},
    )


def check_all_predicted(pairs: Pairs, prediction: Path) -> None:
    """Refuse a folder of predictions that lacks cases.

    Raises:
        InputError: a reference has no prediction.

    Example:
        >>> pairs = Pairs(both=[], unpredicted={"case_1": Path("labels/case_1.nii.gz")}, unknown={})
        >>> check_all_predicted(pairs, Path("predictions"))
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: predictions/case_1.nii.gz is missing (1 of 1 reference cases have no ...
    """
    missing = next(iter(pairs.unpredicted), None)
    if missing is not None:
        total = len(pairs.both) + len(pairs.unpredicted)
        raise InputError(
            f"{prediction / (missing + '.nii.gz')} is missing ({len(pairs.unpredicted)} of {total} reference cases "
            "have no prediction): predict it, take its reference out of the folder, or score the cases that are there "
            "with --only-predicted",
            entry="predictions-missing",
        )


def check_all_known(pairs: Pairs, reference: Path) -> None:
    """Refuse predictions of cases that the folder of references lacks.

    Raises:
        InputError: a prediction has no reference.

    Example:
        >>> pairs = Pairs(both=[], unpredicted={}, unknown={"case_1": Path("predictions/case_1.nii.gz")})
        >>> check_all_known(pairs, Path("labels"))
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: predictions/case_1.nii.gz has no reference in labels ...
    """
    extra = next(iter(pairs.unknown.values()), None)
    if extra is not None:
        raise InputError(
            f"{extra} has no reference in {reference} ({len(pairs.unknown)} predictions without one): "
            "add the reference, or move the prediction away",
            entry="references-missing",
        )


def read_segmentation(path: Path, *, allowed: Collection[int]) -> Segmentation:
    """Read a 3-D label volume.

    Args:
        path: NIfTI file.
        allowed: label values it may hold, including 0.

    Raises:
        InputError: the file cannot be read, is not 3-D, or holds a value that is not allowed.

    Example:
        >>> segmentation = read_segmentation(Path("labels/BraTS-GLI-00001-000.nii.gz"), allowed=(0, 1, 2, 3))
        >>> int((segmentation.labels > 0).sum())
        512
    """
    volume, labels = read_labels(
        path, allowed=allowed, remedy="name the release or data set it belongs to, or map its labels first"
    )
    return Segmentation(labels, volume)


def check_same_grid(reference: Segmentation, prediction: Segmentation, path: Path) -> None:
    """Refuse a prediction that is not on the grid of its reference.

    A prediction that nnU-Net wrote by nibabel, its other reader, may also lie where nibabel sees the reference.

    Args:
        reference: the reference.
        prediction: the prediction.
        path: file of the prediction, for the message.

    Raises:
        InputError: shape or affine differ.

    Example:
        >>> case, labels = "BraTS-GLI-00001-000.nii.gz", (0, 1, 2, 3)
        >>> reference = read_segmentation(Path("labels", case), allowed=labels)
        >>> prediction = read_segmentation(Path("predictions", case), allowed=labels)
        >>> check_same_grid(reference, prediction, Path("predictions", case))  # passes
    """
    here, there = reference.volume.grid, prediction.volume.grid
    what = difference(there, here)
    if what == "shape":
        raise InputError(
            f"{path} has the shape {there.size} but its reference {here.size}: "
            "predict on the images the reference was drawn on, or resample it to their grid",
            entry="shapes-differ",
        )
    if what and not _same_to_nibabel(reference.volume, prediction.volume):
        raise InputError(
            f"{path} lies up to {distance_mm(here, there):.3g} mm from its reference (another affine): "
            "predict on the images the reference was drawn on, or resample it to their grid",
            entry="prediction-elsewhere",
        )


def _same_to_nibabel(*volumes: Volume) -> bool:
    try:
        here, there = (_grid_of_nibabel(volume) for volume in volumes)
    except Refusal:
        return False
    return not difference(there, here)


def _grid_of_nibabel(volume: Volume) -> Grid:
    return read_grid_by_nibabel(volume.header, volume.grid.size, volume.name)
