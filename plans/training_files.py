"""Images and labels of the training cases in nnUNet_raw, as nnU-Net finds them."""

import os
from pathlib import Path
from typing import Any

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_read
from bdfm_nnunet.leftovers import is_leftover
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.safe_names import check_name


def find_training_files(raw: Path) -> dict[str, Any]:
    """Return each case's "images" (a list of paths) and "label" (a path), by the id under which it is preprocessed.

    Args:
        raw: folder of the data set.

    Raises:
        InputError: dataset.json cannot be used, an id cannot be the name of a file, a case has no image or label, or a
            left-over of another system would count as a case.
    """
    dataset = read_dataset_json(raw / "dataset.json")
    if "dataset" not in dataset:
        _check_left_overs(raw, dataset["file_ending"])
    for case, entry in dataset.get("dataset", {}).items():
        if not entry["images"] or not isinstance(entry.get("label"), str):
            raise InputError(f"{raw / 'dataset.json'} names no image or no label of case {case}: add it")
    try:
        cases: dict[str, Any] = get_filenames_of_train_images_and_targets(str(raw), dataset)
    except OSError as error:
        raise cannot_read(Path(error.filename or raw), error) from None
    for case in cases:
        check_name(case, f"case id in {raw}:")
    return cases


def _check_left_overs(raw: Path, ending: str) -> None:
    """Refuse left-overs of other systems, which nnU-Net would take for images of one more case."""
    for folder in (raw / "imagesTr", raw / "labelsTr"):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if is_leftover(name) and name.endswith(ending):
                raise InputError(
                    f"{folder / name} is a left-over of another system (a Mac writes such files beside others), "
                    f"which nnU-Net would take for a case: delete it, `find {folder} -name '._*' -delete` removes all "
                    "of them",
                    entry="left-over-file",
                )
