"""Fingerprint and preprocessing through nnU-Net's own functions, done once and never left half-done."""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset

from bdfm_nnunet.checksums import Checksums, write_checksums
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import (
    cannot_write,
    read_regular,
    sweep,
    unfinished,
    write_json,
)
from bdfm_nnunet.inputs.input_fingerprint import FEWEST_CASES, INPUT_FINGERPRINT, write_fingerprint
from bdfm_nnunet.nnunet_files import read_dataset_json, resolve_configuration
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.plans.case_verification import NIFTI, verify_dataset
from bdfm_nnunet.plans.plans_lookup import plans_path, raw_folder, read_plans
from bdfm_nnunet.plans.prepared_files import (
    FINGERPRINT_FILE,
    RECORD_FILE,
    digest,
    forget,
    is_fingerprint,
    read_record,
    state_of,
)
from bdfm_nnunet.plans.training_files import find_training_files

logger = logging.getLogger(__name__)

MOST_VOXELS = 100_000_000
VOXELS_PER_CASE = 200_000


class FrugalExtractor(DatasetFingerprintExtractor):
    """nnU-Net's fingerprint extractor without 100 million draws for a handful of cases.

    nnU-Net divides that number among the cases, which takes seconds for each of few; 200,000 voxels of a case give its
    mean and percentiles as well.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.num_foreground_voxels_for_intensitystats: float = min(MOST_VOXELS, VOXELS_PER_CASE * len(self.dataset))


def prepare_fingerprint(dataset_id: int, *, workers: int) -> None:
    """Verify the raw data set and write its fingerprint, unless that was done and no file has changed since.

    Raises:
        InputError: a file is missing or unreadable, or images and labels do not fit each other.
    """
    raw = raw_folder(dataset_id)
    folder = nnunet_folder("nnUNet_preprocessed") / raw.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    sweep(folder)
    state = _raw_state(raw)
    record = read_record(folder)
    dataset = read_dataset_json(raw / "dataset.json")
    if record.get("raw") == state and is_fingerprint(folder / FINGERPRINT_FILE):
        logger.info("the fingerprint of %s is up to date", raw.name)
        if not (folder / INPUT_FINGERPRINT).is_file():
            _look_at_inputs(raw, dataset, folder, workers=workers)
        return
    ours = dataset.get("file_ending") in NIFTI  # other formats are left to nnU-Net's own check
    if ours:
        verify_dataset(raw, dataset, find_training_files(raw), workers=workers)
    write_json(folder / RECORD_FILE, {})  # should this run be killed, nothing is up to date
    (folder / FINGERPRINT_FILE).unlink(missing_ok=True)
    with _as_input_errors(f"{raw} is no valid nnU-Net data set"):
        extract_fingerprint_dataset(
            dataset_id, FrugalExtractor, num_processes=workers, check_dataset_integrity=not ours, verbose=False
        )
    _look_at_inputs(raw, dataset, folder, workers=workers)
    write_json(folder / RECORD_FILE, {"raw": state, "data": {}})


def _look_at_inputs(raw: Path, dataset: Mapping[str, Any], folder: Path, *, workers: int) -> None:
    """Write the fingerprint by which predictions will know wrong images, where it can be made."""
    cases = [entry["images"] for entry in find_training_files(raw).values()]
    if dataset["file_ending"] in NIFTI and len(cases) >= FEWEST_CASES:
        write_fingerprint(cases, dataset, folder / INPUT_FINGERPRINT, workers=workers)
    else:
        (folder / INPUT_FINGERPRINT).unlink(missing_ok=True)


def prepare_data(dataset_id: int, plans_name: str, configuration: str, *, workers: int) -> None:
    """Preprocess a configuration's data, unless that was done for the same images and the same settings.

    nnU-Net writes into a folder of another name, which takes its place when it is complete: an interrupted run leaves
    no data that a trainer would take for all of it.

    Raises:
        InputError: a case cannot be preprocessed or the folder cannot be written.
    """
    raw = raw_folder(dataset_id)
    path = plans_path(dataset_id, plans_name)
    plans = read_plans(dataset_id, plans_name)
    settings = resolve_configuration(plans, configuration)
    identifier = settings["data_identifier"]
    state = _data_state(_raw_state(raw), plans, settings)
    record = read_record(path.parent)
    folder, labels = (
        path.parent / identifier,
        {case: entry["label"] for case, entry in find_training_files(raw).items()},
    )
    if record.get("data", {}).get(identifier) == state and _is_complete(raw, folder):
        logger.info("the preprocessed data in %s is up to date", folder)
        if Checksums.of(folder) is None:
            write_checksums(folder, labels, workers=workers)
        return
    partial = unfinished(path.with_name(identifier)).name
    passing = unfinished(path.with_name(f"{plans_name}.json"))
    try:
        write_json(passing, plans | {"configurations": {configuration: settings | {"data_identifier": partial}}})
        with _as_input_errors(f"{raw} cannot be preprocessed", "free some space if the disk is full, else "):
            preprocess_dataset(dataset_id, passing.stem, (configuration,), (workers,))
        forget(path.parent, record, identifier)
        shutil.rmtree(folder, ignore_errors=True)
        (path.parent / partial).rename(folder)
    finally:
        passing.unlink(missing_ok=True)
        shutil.rmtree(path.parent / partial, ignore_errors=True)
    write_checksums(folder, labels, workers=workers)
    write_json(path.parent / RECORD_FILE, record | {"data": record.get("data", {}) | {identifier: state}})


_DEAD_WORKER = "background worker"
"""Words of nnU-Net's error about a process of its pool that is gone."""


@contextlib.contextmanager
def _as_input_errors(what: str, first_remedy: str = "") -> Iterator[None]:
    """Turn what nnU-Net raises into an InputError of one sentence."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno in (None, errno.ENOENT):
            raise InputError(f"{what} ({_reason(error)}): convert the data set again") from error
        raise cannot_write(Path(error.filename or nnunet_folder("nnUNet_preprocessed")), error) from error
    except (AssertionError, RuntimeError, ValueError, IndexError, KeyError) as error:
        if _DEAD_WORKER in str(error):
            raise InputError(
                "a process that reads the images has died: give fewer --workers if memory ran out, and in a script of "
                'your own make the call below `if __name__ == "__main__":`, since these processes import the script'
            ) from error
        raise InputError(
            f"{what} ({_reason(error)}): {first_remedy}repair the file it names, or convert the data set again"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _raw_state(raw: Path) -> str:
    """Return a digest of dataset.json and of name, size and time of every training image and label."""
    files = [read_regular(raw / "dataset.json").decode("utf-8", errors="replace")]
    for case, entry in sorted(find_training_files(raw).items()):
        for path in (*entry["images"], entry["label"]):
            files.append(state_of(Path(path), raw, case))
    return digest(files)


def _data_state(raw_state: str, plans: dict[str, Any], settings: dict[str, Any]) -> str:
    names = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
    chosen = {key: value for key, value in settings.items() if key in names or key.startswith("resampling_fn")}
    general = [plans["transpose_forward"], plans["foreground_intensity_properties_per_channel"]]
    return digest([raw_state, chosen, general])


def _is_complete(raw: Path, folder: Path) -> bool:
    checksums = Checksums.of(folder) if folder.is_dir() else None
    cases = find_training_files(raw)
    return (checksums is None or checksums.sizes_fit()) and all(
        (folder / f"{case}{ending}").is_file() for case in cases for ending in (".b2nd", "_seg.b2nd", ".pkl")
    )
