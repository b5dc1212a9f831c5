"""Reading segmentations and pairing two folders of them, with every fault named."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nifti import read_nifti

_SUFFIXES = (".nii.gz", ".nii")
_GEOMETRY_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Segmentation:
    """Labels (x, y, z), voxel size in mm in the same order, and the corners of the volume in mm."""

    labels: NDArray[np.int16]
    spacing: tuple[float, ...]
    corners: NDArray[np.float64]


def segmentations_in(folder: Path) -> dict[str, Path]:
    """Case name -> file for the NIfTI files of a folder; hidden files are skipped.

    Raises:
        InputError: the folder is missing or holds none, or one case twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds the segmentations")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in _SUFFIXES if path.name.endswith(s)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        case = path.name.removesuffix(suffix)
        if case in found:
            raise InputError(f"{path} and {found[case].name} are the same case: remove one of the two")
        found[case] = path
    if not found:
        raise InputError(f"{folder} holds no .nii.gz or .nii file: give the folder that holds the segmentations")
    return found


def pair_folders(reference: Path, prediction: Path) -> list[tuple[str, Path, Path]]:
    """(case, reference file, prediction file) for every case; both folders must have the same cases.

    Raises:
        InputError: a case has no prediction, or a prediction no reference.
    """
    references, predictions = _both(reference, prediction)
    missing = [case for case in references if case not in predictions]
    if missing:
        raise InputError(
            f"{prediction / (missing[0] + '.nii.gz')} is missing ({len(missing)} of {len(references)} reference cases "
            "have no prediction): predict it, or take its reference out of the folder"
        )
    return [(case, references[case], predictions[case]) for case in references]


def pair_what_there_is(reference: Path, prediction: Path) -> list[tuple[str, Path, Path | None]]:
    """Like `pair_folders`, with None in the place of a prediction that is missing."""
    references, predictions = _both(reference, prediction)
    return [(case, references[case], predictions.get(case)) for case in references]


def _both(reference: Path, prediction: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    references, predictions = segmentations_in(reference), segmentations_in(prediction)
    extra = [case for case in predictions if case not in references]
    if extra:
        raise InputError(
            f"{predictions[extra[0]]} has no reference in {reference} ({len(extra)} predictions without one): "
            "add the reference, or move the prediction away"
        )
    return references, predictions


def _corners(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    indices = np.array([(x, y, z, 1) for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    return (indices @ affine.T)[:, :3]


def read_segmentation(path: Path, *, allowed: Collection[int]) -> Segmentation:
    """Reads a 3-D label volume.

    Args:
        path: NIfTI file.
        allowed: label values it may hold, 0 included.

    Raises:
        InputError: the file cannot be read, is not 3-D, or holds a value that is not allowed.
    """
    image, values = read_nifti(path)
    if values.ndim != 3:
        raise InputError(f"{path} has {values.ndim} dimensions, expected 3: give one label volume per file")
    unknown = np.setdiff1d(np.unique(values), list(allowed))
    if unknown.size:
        raise InputError(
            f"{path} holds the value {unknown[0]:g}, expected only {sorted(allowed)}: "
            "name the release it belongs to, or map its labels first"
        )
    spacing = tuple(float(step) for step in np.linalg.norm(image.affine[:3, :3], axis=0))
    return Segmentation(values.astype(np.int16), spacing, _corners(values.shape, image.affine))


def check_same_grid(reference: Segmentation, prediction: Segmentation, path: Path) -> None:
    """Raises InputError where the prediction, read from `path`, is not on the grid of the reference."""
    sizes = [segmentation.labels.shape for segmentation in (reference, prediction)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{path} has the shape {sizes[1]} but its reference {sizes[0]}: "
            "predict on the images the reference was drawn on, or resample it to their grid"
        )
    offset = float(np.abs(reference.corners - prediction.corners).max())
    if offset > _GEOMETRY_TOLERANCE_MM:
        raise InputError(
            f"{path} lies up to {offset:.3g} mm from its reference (another affine): "
            "predict on the images the reference was drawn on, or resample it to their grid"
        )
