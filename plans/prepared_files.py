"""What lies beside preprocessed data: the record of what it was made from, and copies of files of the raw data set."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from bdfm_nnunet.checksums import checksums_path
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_atomically, write_json
from bdfm_nnunet.json_shapes import Shape
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.patients import MANIFEST
from bdfm_nnunet.plans.plans_lookup import raw_folder
from bdfm_nnunet.targets import copy_targets

logger = logging.getLogger(__name__)

RECORD_FILE = "bdfm_preparation.json"  # what the fingerprint and the preprocessed folders were made from
FINGERPRINT_FILE = "dataset_fingerprint.json"
_FINGERPRINT = {
    "spacings": [[float]],
    "shapes_after_crop": [[int]],
    "foreground_intensity_properties_per_channel": {str: dict},
    "median_relative_size_after_cropping": float,
}


def copy_manifest(dataset_id: int) -> None:
    """Copy manifest and targets beside the preprocessed data, so that trainers know both without the raw data.

    Raises:
        InputError: a file cannot be written.
    """
    raw = raw_folder(dataset_id)
    copy = nnunet_folder("nnUNet_preprocessed") / raw.name / MANIFEST
    if (raw / MANIFEST).is_file():
        copy_file(raw / MANIFEST, copy)
    else:
        copy.unlink(missing_ok=True)
    copy_targets(raw, copy.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)


def read_record(folder: Path) -> dict[str, Any]:
    """Return what is up to date in a folder of preprocessed data; nothing if the record is damaged."""
    record = _read_or_none(folder / RECORD_FILE, {"raw?": str, "data?": {str: str}})
    return record or {}


def forget(folder: Path, record: dict[str, Any], identifier: str) -> None:
    """Drop the record of preprocessed data before it is replaced, so that a killed run leaves no false record."""
    rest = {name: state for name, state in record.get("data", {}).items() if name != identifier}
    write_json(folder / RECORD_FILE, record | {"data": rest})
    checksums_path(folder / identifier).unlink(missing_ok=True)


def is_fingerprint(path: Path) -> bool:
    """Return whether a file is a fingerprint that nnU-Net can use."""
    return _read_or_none(path, _FINGERPRINT) is not None


def state_of(path: Path, raw: Path, case: str) -> str:
    """Return name, size and time of a file of a case, in a line.

    Raises:
        InputError: the file does not exist.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path} of case {case} does not exist: convert the data set again") from None
    return f"{os.path.relpath(path, raw)} {status.st_size} {status.st_mtime_ns}"


def digest(content: Any) -> str:
    """Return a short value that differs where the content, as JSON, does."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_or_none(path: Path, shape: Shape) -> Any:
    if not os.path.lexists(path):
        return None
    try:
        return read_json(path, shape)
    except InputError as error:
        logger.warning("%s; it is made anew", error)
        return None
