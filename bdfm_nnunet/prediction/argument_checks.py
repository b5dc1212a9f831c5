"""Checks of the arguments of a prediction, before hours of it."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from bdfm_nnunet.errors import InputError


def check_dataset(name: str) -> None:
    """Check that nnU-Net knows a data set by its number or name.

    Raises:
        InputError: none or several have this number, or it is no number.
    """
    try:
        maybe_convert_to_dataset_name(name)
    except (RuntimeError, ValueError):
        raise InputError(
            f"there is not one data set {name} in nnUNet_results, nnUNet_raw and nnUNet_preprocessed: check -d and "
            "these variables"
        ) from None


def check_model(folder: Path, folds: Sequence[int | str], checkpoint: str) -> None:
    """Check that a folder is a trained model's and has the checkpoint of every fold.

    Raises:
        InputError: it is not, or has not.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist: train that model first, or check -d, -c, -tr and -p", entry="no-such-model"
        )
    for name in ("dataset.json", "plans.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no trained model, it has no {name}: name the folder above the folds")
    missing = [fold for fold in folds if not (folder / f"fold_{fold}" / checkpoint).is_file()]
    if missing:
        found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
        remedy = f"name those with -f {' '.join(found)}" if found else "finish a training, or name another with -chk"
        raise InputError(f"{folder} has no {checkpoint} of fold {missing[0]}: {remedy}", entry="fold-not-trained")
