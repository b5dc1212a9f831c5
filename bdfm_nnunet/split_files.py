"""splits_final.json, whoever wrote it: read, and checked before anything in it is used."""

import os
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.safe_names import check_name

SPLITS = "splits_final.json"
Split = dict[str, list[str]]
"""The case ids of a fold: `train` and `val`."""
_SHAPE = [{"train": [str], "val": [str]}]


def read_splits(path: str | os.PathLike[str]) -> list[Split]:
    """Return the folds of a splits_final.json, at least one.

    Raises:
        InputError: as `read_json`; it is no list of train and val cases, or a case's name cannot be a file's.
    """
    content = read_json(path)
    fault = fault_of(content, _SHAPE) or ("" if content else "it has no fold")
    if fault:
        raise InputError(
            f"{path} is no list of train and val cases ({fault}): make it anew with `bdfm splits --overwrite`"
        )
    splits = [{part: list(fold[part]) for part in ("train", "val")} for fold in content]
    for case in dict.fromkeys(case for fold in splits for part in fold.values() for case in part):
        check_name(case, f"case id in {Path(path)}")
    return splits
