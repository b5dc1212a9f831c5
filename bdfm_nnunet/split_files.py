"""Reading of splits_final.json; its content is checked before it is used."""

import os
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.safe_names import check_name

SPLITS = "splits_final.json"
Split = dict[str, list[str]]
"""Case ids of a fold: `train` and `val`."""
_SHAPE = [{"train": [str], "val": [str]}]


def read_splits(path: str | os.PathLike[str]) -> list[Split]:
    """Return the folds of a splits_final.json, at least one.

    Raises:
        InputError: as `read_json`; or the file is not a list of train and val cases, or a case name cannot be a file
            name.

    Example:
        >>> from bdfm_nnunet.files import write_json
        >>> write_json("splits_final.json", [{"train": ["case_1"], "val": ["case_2"]}])
        >>> read_splits("splits_final.json")[0]["val"]
        ['case_2']
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
