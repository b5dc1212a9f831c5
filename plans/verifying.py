"""Checks every training case before nnU-Net sees it.

nnU-Net's reader turns NaN in labels into 0 and fills up a file that ends early, both in silence, and its own check
prints what is wrong over many lines. Here each fault is one sentence with the file and the remedy.
"""

import gzip
import logging
import math
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from bdfm_nnunet.errors import InputError

logger = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
NIFTI_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))  # how files of that version begin
KEYS = ("channel_names", "labels", "numTraining", "file_ending")
TOLERANCE_MM = 0.01
MOST_FAULTS = 20


def verify_dataset(raw: Path, dataset: Mapping[str, Any], cases: Mapping[str, Any], *, workers: int) -> None:
    """Reads all images and labels of a data set in nnUNet_raw whose files are NIfTI.

    Args:
        raw: its folder.
        dataset: the content of its dataset.json.
        cases: case to its "images" and "label".
        workers: cases that are read at once.

    Raises:
        InputError: the first fault; those of other cases are logged.
    """
    labels = _check_description(raw / "dataset.json", dataset, len(cases))
    check = partial(_check_case, channels=len(dataset["channel_names"]), ending=dataset["file_ending"], allowed=labels)
    faults: list[InputError] = []
    foreground = False
    with ThreadPoolExecutor(workers) as pool:  # reading is mostly decompression, which runs beside other threads
        results = pool.map(partial(_result, check), cases.items())
        for result in tqdm(results, total=len(cases), desc="checking cases", unit="case", disable=None):
            if isinstance(result, InputError):
                faults.append(result)
            else:
                foreground |= result
    for fault in faults[1 : MOST_FAULTS + 1]:
        logger.error("%s", fault)
    if faults:
        others = f" ({len(faults) - 1} other cases have faults too)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}")
    if not foreground:
        raise InputError(
            f"{raw / 'labelsTr'} holds labels without any foreground, of which nnU-Net can make no plans: for "
            "pre-training convert with --unlabelled, which takes the brain as foreground"
        )


def _check_description(path: Path, dataset: Mapping[str, Any], cases: int) -> set[int]:
    """Refuses a dataset.json that nnU-Net cannot use; gives the label values that files may hold."""
    missing = [key for key in KEYS if key not in dataset]
    if missing:
        raise InputError(f"{path} does not say {', '.join(missing)}: add it, or convert the data set again")
    if dataset["numTraining"] != cases:
        raise InputError(
            f"{path} names {dataset['numTraining']} training cases but there are {cases}: convert the data set again, "
            "or correct numTraining"
        )
    values: set[int] = set()
    for value in dataset["labels"].values():
        values.update(value if isinstance(value, (list, tuple)) else [value])
    if values != set(range(len(values))):
        raise InputError(f"{path} has the labels {sorted(values)}, nnU-Net expects 0, 1, 2, ... without gaps: map them")
    return values


def _result(check: Any, case: tuple[str, Any]) -> bool | InputError:
    try:
        return bool(check(case[0], [Path(name) for name in case[1]["images"]], Path(case[1]["label"])))
    except InputError as fault:
        return fault


def _check_case(
    case: str, images: list[Path], label: Path, *, channels: int, ending: str, allowed: Collection[int]
) -> bool:
    """Whether the label holds foreground; InputError where a file of the case cannot be used."""
    if len(images) != channels:
        there = {path.name for path in images}
        wanted = (f"{case}_{channel:04d}{ending}" for channel in range(channels))
        lost = next((name for name in wanted if name not in there), f"{len(images)} instead of {channels} images")
        raise InputError(f"{label.parent.parent / 'imagesTr' / lost} of case {case} is missing: convert the case again")
    for path in images:
        _check_image(path, _read(path))
        _check_grid(path, images[0])
    values = np.unique(_read(label))
    _check_grid(label, images[0])
    unknown = [value for value in values if value not in allowed]
    if unknown:
        raise InputError(
            f"{label} holds the value {unknown[0]:g}, expected only {sorted(allowed)}: correct the file, or name the "
            "label in dataset.json"
        )
    return bool((values > 0).any())


def _check_image(path: Path, values: Any) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(f"{path} has {bad} voxels that are NaN or infinite: repair it or remove the case")
    if values.min() == values.max():
        raise InputError(f"{path} is empty (every voxel is {values.flat[0]:g}): convert it again or remove the case")


def _read(path: Path) -> Any:
    """The values of a NIfTI file, all of which must be there."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        kind: Any = nibabel.Nifti2Image if content[:4] in NIFTI_2 else nibabel.Nifti1Image
        values = np.asanyarray(kind.from_bytes(content).dataobj)
    except Exception as error:  # nibabel may raise anything for a header of random bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as NIfTI, it is truncated or damaged ({reason}): convert it again from a whole file"
        ) from None
    if values.size == 0 or values.size != math.prod(values.shape[:3]):
        raise InputError(f"{path} has the shape {values.shape}, expected one 3-D volume: split it or remove the case")
    return values


def _check_grid(path: Path, reference: Path) -> None:
    (size, corners), (wanted, others) = _grid(path), _grid(reference)
    if size != wanted:
        raise InputError(f"{path} has the shape {size} but {reference.name} {wanted}: take both from the same source")
    distance = float(np.abs(corners - others).max())
    if distance > TOLERANCE_MM:
        raise InputError(
            f"{path} lies up to {distance:.3g} mm from {reference.name} (another affine): register the files, or "
            "remove the case"
        )


def _grid(path: Path) -> tuple[tuple[int, ...], Any]:
    """Voxels per axis and the corners in mm (LPS), as nnU-Net's reader sees them."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a sheared affine, which nnU-Net reads with nibabel
        image: Any = nibabel.load(path)
        return tuple(image.shape), _corners(image.shape, np.diag([-1, -1, 1, 1]) @ image.affine)
    axes = reader.GetDimension()
    affine = np.eye(axes + 1)
    affine[:axes, :axes] = np.reshape(reader.GetDirection(), (axes, axes)) * reader.GetSpacing()
    affine[:axes, axes] = reader.GetOrigin()
    return tuple(reader.GetSize()), _corners(reader.GetSize(), affine)


def _corners(size: tuple[int, ...], affine: Any) -> Any:
    return np.array([[*corner, 1] for corner in product(*((0, length - 1) for length in size))]) @ affine.T
