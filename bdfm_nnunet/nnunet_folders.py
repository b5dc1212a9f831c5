"""The folders that nnU-Net takes from the environment."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bdfm_nnunet.errors import InputError

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PLUGIN = Path(__file__).parent / "nnunet_plugin"


def nnunet_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's environment variables names.

    Raises:
        InputError: the variable is not set.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InputError(
            f"{variable} is not set: name the folder with `export {variable}=/path/to/{variable}` first",
            entry="folder-not-set",
        )
    return Path(value)


def dataset_name(dataset_id: int) -> str:
    """Return the name, like Dataset501_Demo, of the data set with this number in nnUNet_raw or nnUNet_preprocessed.

    One of the two variables is enough.

    Raises:
        InputError: no data set, or more than one, has the number.
    """
    folders = [nnunet_folder(name) for name in VARIABLES[:2] if os.environ.get(name)] or [nnunet_folder("nnUNet_raw")]
    pattern = f"Dataset{dataset_id:03d}_*"
    names = sorted({path.name for folder in folders for path in folder.glob(pattern) if path.is_dir()})
    if not names:
        raise InputError(
            f"no data set {pattern} in {folders[0]}: convert one with `bdfm convert RELEASE SOURCE -d {dataset_id}`",
            entry="no-such-dataset",
        )
    if len(names) > 1:
        raise InputError(
            f"data set number {dataset_id} is taken by {' and '.join(names)}: rename or remove one",
            entry="number-taken-twice",
        )
    return names[0]


def dataset_folders(dataset_id: int) -> list[Path]:
    """Return the existing folders of a data set in nnUNet_raw and nnUNet_preprocessed, at least one.

    Raises:
        InputError: no data set, or more than one, has the number.
    """
    name = dataset_name(dataset_id)
    return [folder for variable in VARIABLES[:2] if (folder := nnunet_folder(variable) / name).is_dir()]


def trainer_search_path(environ: Mapping[str, str] | None = None) -> str:
    """Return the value of `nnUNet_extTrainer` by which nnU-Net finds our trainers; folders already in it are kept."""
    present = (os.environ if environ is None else environ).get("nnUNet_extTrainer", "").split(os.pathsep)
    return os.pathsep.join([str(PLUGIN), *(folder for folder in present if folder and folder != str(PLUGIN))])


@contextmanager
def changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Give environment variables other values for the length of a block.

    Example:
        >>> with changed_environment({"nnUNet_results": "elsewhere"}):
        ...     str(nnunet_folder("nnUNet_results"))
        'elsewhere'
    """
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
