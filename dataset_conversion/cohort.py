"""Merging converted data sets into one unlabelled pre-training data set, without copying an image."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.cohort_masks import write_masks
from bdfm_nnunet.dataset_conversion.cohort_report import CohortReport, write_cohort_tables, write_dataset_json
from bdfm_nnunet.dataset_conversion.cohort_rows import cohort_rows, with_duplicates_noted
from bdfm_nnunet.dataset_conversion.cohort_rules import keep_allowed
from bdfm_nnunet.dataset_conversion.cohort_sources import common_channels, find_origins, left_out
from bdfm_nnunet.dataset_conversion.conversion import check_number_is_free
from bdfm_nnunet.dataset_conversion.writing.file_placement import remove
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.patients import COHORT, MANIFEST, read_manifest
from bdfm_nnunet.safe_names import check_name
from bdfm_nnunet.weight_rules import find_rules

CHANNELS = ("single", "all")


def make_cohort_dataset(
    dataset_id: int,
    sources: Sequence[int | str | os.PathLike[str]],
    *,
    name: str = "Cohort",
    channels: str = "single",
    allowed_by: str | None = None,
    workers: int = 1,
) -> CohortReport:
    """Write `nnUNet_raw/DatasetXXX_NAME`, whose dataset.json points at the images of other data sets.

    The training cases of each source take part. Images that are already there, voxel for voxel, are left out and named
    in the table. The only files written are brain masks, for sources that have other labels. A second run writes what
    is missing; `dataset.json` is written last.

    Args:
        dataset_id: nnU-Net's number of the new data set, 1 to 999.
        sources: number, name (`DatasetXXX_NAME`) or folder of converted data sets.
        name: the part of the new one's name after the number.
        channels: `single`: every image becomes a case with one channel; `all`: cases stay as they are.
        allowed_by: name or file of rules on weights, see `weight_rules.find_rules`; what they forbid is left out.
        workers: processes.

    Raises:
        InputError: a source is not whole or does not fit, the number is taken, the rules forbid everything, or a file
            cannot be read or written.
    """
    _check_settings(dataset_id, sources, name, channels)
    folder = (nnunet_folder("nnUNet_raw") / f"Dataset{dataset_id:03d}_{name}").absolute()
    rules = None if allowed_by is None else find_rules(allowed_by)
    origins = find_origins(sources, folder)
    notes: list[str] = []
    rows = cohort_rows(origins, folder, single=channels == "single")
    if rules is not None:
        rows, notes = keep_allowed(rows, origins, rules)
        origins = [origin for origin in origins if any(row["dataset"] == origin.folder.name for row in rows)]
    names = ["mri"] if channels == "single" else common_channels(origins)
    check_number_is_free(folder)
    _check_own(folder)
    notes = [*filter(None, map(left_out, origins)), *notes]
    report = CohortReport(folder, with_duplicates_noted(rows), tuple(notes), rules)
    with only_writer(folder):
        remove(folder / "dataset.json")
        write_masks([row for row in report.kept if "masked" in row], folder, workers)
        write_cohort_tables(report, origins)
        write_dataset_json(report, names, [origin.folder.name for origin in origins])
    return report


def _check_settings(dataset_id: int, sources: Sequence[Any], name: str, channels: str) -> None:
    if not 1 <= dataset_id <= 999:
        raise InputError(f"data set number {dataset_id} is not possible in nnU-Net: choose one from 1 to 999")
    if not sources:
        raise InputError("no source was named: give numbers, names or folders of converted data sets")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"--name {name!r} cannot be part of a data set's name: use letters, digits, _ and -")
    check_name(name, "the name of the data set,")
    if channels not in CHANNELS:
        raise InputError(f"channels = {channels} is not known: choose one of {', '.join(CHANNELS)}")


def _check_own(folder: Path) -> None:
    if os.path.lexists(folder / MANIFEST) and read_manifest(folder).get("release") != COHORT:
        raise InputError(f"{folder} is a converted data set, no cohort: choose another number with -d")
