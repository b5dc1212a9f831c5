"""Folders in which nnU-Net, or a trainer of ours, has trained: which of their checkpoints is meant."""

import re
from pathlib import Path

from bdfm_nnunet.checkpoints.hub_folder import WEIGHT_FILES
from bdfm_nnunet.errors import InputError

_FOLD = re.compile(r"fold_(all|\d+)")
_TRAINING = re.compile(r"\w+__[^_].*__.+")
_FINAL = "checkpoint_final.pth"


def checkpoint_of_training(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the final checkpoint of a training's folder, and a sentence on the fold.

    Args:
        path: folder of a data set in nnUNet_results with one training, of a training (TRAINER__PLANS__CONFIGURATION)
            or of a fold. Of several folds, `fold_all` or else the first is taken. Any other path is returned as it is.

    Raises:
        InputError: no fold is finished, or there are several trainings.

    Example:
        >>> for fold in (0, 1):
        ...     folder = Path(f"nnUNetTrainer__nnUNetPlans__3d_fullres/fold_{fold}")
        ...     folder.mkdir(parents=True)
        ...     _ = (folder / "checkpoint_final.pth").write_bytes(b"")
        >>> found, told = checkpoint_of_training(Path("nnUNetTrainer__nnUNetPlans__3d_fullres"))
        >>> found.as_posix(), told
        ('nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth', ('the weights are those of fold_0, ...
    """
    if not path.is_dir() or any((path / name).is_file() for name in WEIGHT_FILES):
        return path, ()
    if _FOLD.fullmatch(path.name) or (path / "checkpoint_latest.pth").is_file():
        raise _unfinished(path, [path])
    trainings = sorted(each for each in path.glob("*__*__*") if each.is_dir() and _TRAINING.fullmatch(each.name))
    if len(trainings) == 1:
        return checkpoint_of_training(trainings[0])
    if trainings:
        raise InputError(f"{path} holds {len(trainings)} trainings: name one, such as {trainings[0]}")
    return _of_folds(path)


def _of_folds(path: Path) -> tuple[Path, tuple[str, ...]]:
    folds = sorted((each for each in path.glob("fold_*") if _FOLD.fullmatch(each.name)), key=_order)
    if not folds:
        return path, ()
    finished = [fold for fold in folds if (fold / _FINAL).is_file()]
    if not finished:
        raise _unfinished(path, folds)
    others = f", of {len(finished)} finished folds" if len(finished) > 1 else ""
    return finished[0] / _FINAL, (f"the weights are those of {finished[0].name}{others} of {path.name}",)


def _order(fold: Path) -> int:
    number = fold.name.partition("_")[2]
    return -1 if number == "all" else int(number)


def _unfinished(path: Path, folds: list[Path]) -> InputError:
    found = [file for fold in folds for file in sorted(fold.glob("checkpoint_*.pth"))]
    instead = f", or name a file such as {found[0]}" if found else ""
    return InputError(f"{path} has no {_FINAL} of a finished training: finish it with `--c`{instead}")
