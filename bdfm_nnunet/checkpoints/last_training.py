"""Short names of checkpoints: `last:900` is the last finished pre-training of data set 900."""

import re
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder

SUMMARY = "pretraining_summary.json"
"""What a finished pre-training leaves beside its checkpoint, and no other training does."""
_FINAL = "checkpoint_final.pth"
_NAME = re.compile(r"last:(\d{1,6})")


def named_checkpoint(name: str | Path) -> tuple[Path, tuple[str, ...]]:
    """Return the file that a name stands for, and a sentence about the choice for a short name.

    Args:
        name: a path, or `last:ID`.

    Raises:
        InputError: there is no finished pre-training of this data set in nnUNet_results.

    Example:
        >>> named_checkpoint("weights.pth")
        (PosixPath('weights.pth'), ())
    """
    found = _NAME.fullmatch(str(name))
    return (Path(name), ()) if found is None else _last(int(found[1]))


def _last(dataset_id: int) -> tuple[Path, tuple[str, ...]]:
    results = nnunet_folder("nnUNet_results")
    folds = results.glob(f"Dataset{dataset_id:03d}_*/*__*__*/fold_*")
    finished = [fold / _FINAL for fold in folds if (fold / SUMMARY).is_file() and (fold / _FINAL).is_file()]
    if not finished:
        raise InputError(
            f"last:{dataset_id} names nothing: no finished pre-training of data set {dataset_id} is in {results}; "
            f"pre-train with `bdfm train {dataset_id} 3d_fullres all -tr nnUNetTrainerBDFMPretrain`, or name a file",
            entry="no-last-training",
        )
    newest = max(finished, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    count = f", the newest of {len(finished)} finished pre-trainings" if len(finished) > 1 else ""
    return newest, (f"last:{dataset_id} is {newest.relative_to(results)}{count}",)
