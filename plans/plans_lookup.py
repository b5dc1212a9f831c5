"""Data sets and plans files by number and name. Imports no nnU-Net."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import read_plans_file
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
from bdfm_nnunet.safe_names import fault_of_name

CONFIGURATION = "3d_fullres"
RUN_CONFIGURATION = "4d"
DEFAULT_PLANS = "BDFMPlans"


def raw_folder(dataset_id: int) -> Path:
    """Return the data set's folder in nnUNet_raw.

    Raises:
        InputError: it does not exist or has no dataset.json.
    """
    folder = nnunet_folder("nnUNet_raw") / dataset_name(dataset_id)
    if not (folder / "dataset.json").is_file():
        raise InputError(f"{folder} has no dataset.json: convert the data set again with `bdfm convert`")
    return folder


def plans_path(dataset_id: int, plans_name: str) -> Path:
    """Return the path of the plans file of that name, whether it exists or not.

    Raises:
        InputError: the name cannot be a file's.
    """
    if fault := fault_of_name(plans_name):
        raise InputError(f"-p {plans_name!r} is not a plans name ({fault}): give a plain word such as {DEFAULT_PLANS}")
    return nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset_id) / f"{plans_name}.json"


def main_configuration(plans: Mapping[str, Any]) -> str:
    """Return the configuration that `bdfm plan` has planned: of images, or of 4-D runs.

    Example:
        >>> main_configuration({"configurations": {"4d": {}, "short": {}}})
        '4d'
    """
    there = plans["configurations"]
    return RUN_CONFIGURATION if CONFIGURATION not in there and RUN_CONFIGURATION in there else CONFIGURATION


def read_plans(dataset_id: int, plans_name: str) -> dict[str, Any]:
    """Read a plans file.

    Raises:
        InputError: it does not exist or is no plans file.
    """
    path = plans_path(dataset_id, plans_name)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: run `bdfm plan -d {dataset_id} -p {plans_name}` first", entry="no-such-plans"
        )
    return read_plans_file(path)
