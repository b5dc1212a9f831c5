"""The images to predict: found case by case, and checked before the first case is predicted."""

import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_channels import check_grid, each_channel, read_whole
from bdfm_nnunet.images.case_folders import NIFTI, list_cases
from bdfm_nnunet.images.foreign_headers import AGAIN
from bdfm_nnunet.images.volumes import Volume
from bdfm_nnunet.inputs.input_faults import InputFault, find_faults
from bdfm_nnunet.inputs.input_fingerprint import InputFingerprint
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.missing_channels import missing_channels, present, with_stand_ins
from bdfm_nnunet.prediction.other_formats import check_by_reader
from bdfm_nnunet.prediction.resampled_sizes import check_resampled_size
from bdfm_nnunet.safe_names import check_name

logger = logging.getLogger(__name__)

MOST_FAULTS = 20


def find_cases(source: str | list[list[str]], wanted: ImagesWanted) -> list[list[str]]:
    """Return the files of each case, in the order of channels; for one that it may lack another one stands in.

    Args:
        source: the folder of the images, or the files of each case.
        wanted: by the model.

    Raises:
        InputError: the folder does not exist or holds no images, a file is not named after a case and a channel, or a
            case lacks a channel or has others.
    """
    cases = source if not isinstance(source, str) else _cases_in(Path(source), wanted.ending)
    return [_files_of_channels(files, wanted) for files in cases]


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
                f"{shown} is not named after a case and a channel: name it CASE_0000{ending}, or move it away",
                entry="wrong-file-name",
            )
        cases.setdefault(check_name(parts[1], f"case id in {folder}:"), []).append(str(path))
    return [sorted(cases[case]) for case in sorted(cases)]


def _files_of_channels(files: Sequence[str], wanted: ImagesWanted) -> list[str]:
    """Check that every channel is there once, or may be missing, and return the files.

    In formats other than NIfTI one file may hold several (colours).
    """
    count, ending = len(wanted.channels), wanted.ending
    numbers = [file.removesuffix(ending)[-5:] for file in files]
    whole = numbers == [f"_{channel:04d}" for channel in range(len(files))]
    if files and whole and (len(files) == count or (ending not in NIFTI and len(files) < count)):
        return list(files)
    if (chosen := with_stand_ins(files, wanted)) is not None:
        return chosen
    case = files[0] if files else "a case"
    raise InputError(
        f"{case} is one of {len(files)} files, the model needs {count} ({', '.join(wanted.channels)}): "
        f"name them CASE_0000{ending} to CASE_{count - 1:04d}{ending}",
        entry="channels-missing",
    )


# --------------------------------------------------------------------------------------------------------- checking


def check_cases(
    cases: Sequence[Sequence[str]],
    previous: Sequence[str | None],
    wanted: ImagesWanted,
    *,
    workers: int,
    fingerprint: InputFingerprint | None = None,
) -> list[list[InputFault]]:
    """Read all images and refuse all cases if one cannot be used, as `bdfm convert` and `bdfm plan` do.

    Args:
        cases: the files of each.
        previous: segmentation of a cascade's stage before, for each.
        wanted: by the model.
        workers: cases that are read at once.
        fingerprint: of the model's training cases; None where it has none, or is not for this format.

    Returns:
        Per case where it departs from the training cases.

    Raises:
        InputError: the first fault; those of other cases are logged.
    """
    check = partial(_checked, wanted=wanted, fingerprint=fingerprint)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # mostly decompression, which runs beside other threads
        looked = pool.map(check, cases, previous)
        found = list(tqdm(looked, total=len(cases), desc="checking images", unit="case", disable=None))
    faults = [each for each in found if isinstance(each, InputError)]
    for fault in faults[1 : MOST_FAULTS + 1]:
        logger.error("%s", fault)
    if faults:
        others = f" ({len(faults) - 1} other cases have faults too)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}; nothing was predicted")
    return [each for each in found if not isinstance(each, InputError)]


def _checked(
    files: Sequence[str], previous: str | None, *, wanted: ImagesWanted, fingerprint: InputFingerprint | None
) -> list[InputFault] | InputError:
    missing = missing_channels(files, wanted.ending)
    channels = [channel for channel in range(len(wanted.channels)) if channel not in missing]
    files = present(files)
    try:
        if wanted.ending not in NIFTI:
            size, spacing = check_by_reader(files, previous, wanted)
            check_resampled_size(files[0], size, spacing, wanted)
            return []
        images = _check_nifti([Path(file) for file in files], previous, wanted)
        return find_faults(fingerprint.of_channels(channels), images) if fingerprint is not None else []
    except InputError as fault:
        return fault


def _check_nifti(files: Sequence[Path], previous: str | None, wanted: ImagesWanted) -> list[Volume]:
    images = list(each_channel(files, by_nibabel=wanted.by_nibabel, flat=wanted.flat, again=AGAIN))
    grid = images[0].grid
    if previous is not None:
        check_grid(read_whole(Path(previous), by_nibabel=wanted.by_nibabel, again="predict it again"), images[0])
    check_resampled_size(str(files[0]), grid.size[::-1], grid.spacing[::-1], wanted)
    return images
