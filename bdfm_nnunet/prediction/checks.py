"""What a user may have got wrong, found before hours of prediction."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nifti import read_nifti


def check_dataset(name: str) -> None:
    """Sees that nnU-Net knows a data set by its number or name.

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
    """Sees that a folder is a trained model's and has the checkpoint of every fold.

    Raises:
        InputError: it is not, or has not.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: train that model first, or check -d, -c, -tr and -p")
    for name in ("dataset.json", "plans.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no trained model, it has no {name}: name the folder above the folds")
    missing = [fold for fold in folds if not (folder / f"fold_{fold}" / checkpoint).is_file()]
    if missing:
        found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
        remedy = f"name those with -f {' '.join(found)}" if found else "finish a training, or name another with -chk"
        raise InputError(f"{folder} has no {checkpoint} of fold {missing[0]}: {remedy}")


def find_cases(source: str | list[list[str]], ending: str, channels: Sequence[str]) -> list[list[str]]:
    """The files of each case.

    Args:
        source: the folder of the images, or the files of each case.
        ending: of the files.
        channels: names of the channels the model needs.

    Raises:
        InputError: the folder does not exist or holds no images, or a case has fewer or more files than channels.
    """
    cases = source if not isinstance(source, str) else _cases_in(source, ending)
    for files in cases:
        if len(files) != len(channels):
            case = files[0] if files else "a case"
            raise InputError(
                f"{case} is one of {len(files)} files, the model needs {len(channels)} ({', '.join(channels)}): "
                f"name them CASE_0000{ending} to CASE_{len(channels) - 1:04d}{ending}"
            )
    return cases


def check_whole(files: Sequence[str]) -> None:
    """Sees that NIfTI files are whole: where one ends early, nnU-Net's reader fills it up and says nothing.

    Raises:
        InputError: one is not.
    """
    for file in files:
        if file.endswith((".nii", ".nii.gz")):
            read_nifti(Path(file))


def check_images(files: Sequence[str], reader: Callable[[], Any]) -> None:
    """Finds which image of a case nnU-Net's reader cannot read, or which does not fit to the others.

    Args:
        files: of one case.
        reader: makes nnU-Net's reader of such files.

    Raises:
        InputError: there is one.
    """
    shapes = []
    for file in files:
        try:
            shapes.append(reader().read_images([file])[0].shape[1:])
        except Exception as error:  # every library behind nnU-Net's readers has errors of its own
            reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
            raise InputError(f"{file} cannot be read ({reason}): copy or write it again") from error
        if shapes[-1] != shapes[0]:
            sizes = " and ".join(" x ".join(map(str, shape)) for shape in (shapes[-1], shapes[0]))
            raise InputError(
                f"{file} has another shape than {files[0]} ({sizes} voxels): resample the images of a case to one grid"
            )


def _cases_in(folder: str, ending: str) -> list[list[str]]:
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder: name the folder of the images with -i")
    cases: list[list[str]] = create_lists_from_splitted_dataset_folder(folder, ending, num_processes=1)
    if not cases:
        raise InputError(f"{folder} has no file that ends in {ending}, as the training images do: name another -i")
    return cases
