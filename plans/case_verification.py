"""Checks of every training case before nnU-Net sees it.

nnU-Net's reader turns NaN in labels into 0 and fills up a file that ends early, both in silence, and its own check
prints what is wrong over many lines. Here each fault is one sentence with the file and the remedy.
"""

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_channels import check_grid, read_channels, read_whole
from bdfm_nnunet.images.label_values import as_text, histogram, split_whole
from bdfm_nnunet.images.volumes import Volume

logger = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
KEYS = ("channel_names", "labels", "numTraining", "file_ending")
MOST_FAULTS = 20


def verify_dataset(raw: Path, dataset: Mapping[str, Any], cases: Mapping[str, Any], *, workers: int) -> None:
    """Read all images and labels of a data set in nnUNet_raw whose files are NIfTI.

    Args:
        raw: its folder.
        dataset: the content of its dataset.json.
        cases: case to its "images" and "label".
        workers: cases that are read at once.

    Raises:
        InputError: the first fault; those of other cases are logged.
    """
    labels = _check_description(raw / "dataset.json", dataset, len(cases))
    check = partial(
        _check_case,
        channels=len(dataset["channel_names"]),
        ending=dataset["file_ending"],
        by_nibabel=dataset.get("overwrite_image_reader_writer") != "SimpleITKIO",
        allowed=labels,
    )
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
            "pre-training convert with --unlabelled, which takes the brain as foreground",
            entry="no-foreground",
        )


def _check_description(path: Path, dataset: Mapping[str, Any], cases: int) -> set[int]:
    """Refuse a dataset.json that nnU-Net cannot use; return the label values that files may hold."""
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
        raise InputError(
            f"{path} has the labels {sorted(values)}, nnU-Net expects 0, 1, 2, ... without gaps: map them",
            entry="labels-with-gaps",
        )
    return values


def _result(check: Any, case: tuple[str, Any]) -> bool | InputError:
    try:
        return bool(check(case[0], [Path(name) for name in case[1]["images"]], Path(case[1]["label"])))
    except InputError as fault:
        return fault


def _check_case(
    case: str,
    images: list[Path],
    label: Path,
    *,
    channels: int,
    ending: str,
    by_nibabel: bool,
    allowed: Collection[int],
) -> bool:
    """Return whether the label holds foreground; InputError if a file of the case cannot be used."""
    if len(images) != channels:
        there = {path.name for path in images}
        wanted = (f"{case}_{channel:04d}{ending}" for channel in range(channels))
        lost = next((name for name in wanted if name not in there), f"{len(images)} instead of {channels} images")
        raise InputError(f"{label.parent.parent / 'imagesTr' / lost} of case {case} is missing: convert the case again")
    first = read_channels(images, by_nibabel=by_nibabel)
    return _check_label(read_whole(label, by_nibabel=by_nibabel), first, allowed)


def _check_label(label: Volume, image: Volume, allowed: Collection[int]) -> bool:
    """Return whether it holds foreground."""
    check_grid(label, image)
    whole, broken = split_whole(label)
    values = histogram(whole)
    unknown = [*map(as_text, broken[:1]), *(str(value) for value in values if value not in allowed)]
    if unknown:
        raise InputError(
            f"{label.name} holds the value {unknown[0]}, expected only {sorted(allowed)}: correct the file, or name "
            "the label in dataset.json"
        )
    return max(values) > 0
