"""The folders that nnU-Net takes from the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from bdfm_nnunet.errors import InputError

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PLUGIN = Path(__file__).parent / "nnunet_plugin"


def nnunet_folder(variable: str) -> Path:
    """The folder that one of nnU-Net's variables names.

    Raises:
        InputError: the variable is not set.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InputError(f"{variable} is not set: name the folder with `export {variable}=/path/to/{variable}` first")
    return Path(value)


def trainer_search_path(environ: Mapping[str, str] | None = None) -> str:
    """What `nnUNet_extTrainer` must be for nnU-Net to find our trainers; folders already in it are kept."""
    present = (os.environ if environ is None else environ).get("nnUNet_extTrainer", "").split(os.pathsep)
    return os.pathsep.join([str(PLUGIN), *(folder for folder in present if folder and folder != str(PLUGIN))])
