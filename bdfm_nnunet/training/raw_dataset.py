"""The data set in nnUNet_raw as a training needs it: splits, manifest, and whether labels have changed since."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.data.case_classes import dataset_class_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.patients import MANIFEST, CaseList, groups
from bdfm_nnunet.split_files import SPLITS, SPLITS_TABLE, Split, read_splits
from bdfm_nnunet.targets import TARGETS_TYPES, copy_targets

MOST_NAMES = 5


def raw_folder_of(name: str) -> Path | None:
    """Return the folder of a data set in nnUNet_raw, where there is one on this machine."""
    raw = os.environ.get("nnUNet_raw", "").strip()
    folder = Path(raw) / name
    return folder if raw and folder.is_dir() else None


def check_preprocessed(folder: Path) -> None:
    """Raise InputError unless a folder holds preprocessed cases and nothing else."""
    try:
        dataset_class_of(folder).get_identifiers(str(folder))
    except OSError:
        raise InputError(
            f"{folder} does not exist: preprocess the data set with `bdfm plan`", entry="not-preprocessed"
        ) from None
    except (AssertionError, KeyError, IndexError):
        raise InputError(
            f"{folder} must hold preprocessed cases alone (.b2nd and .pkl): remove other files from it, or preprocess "
            "the data set again with `bdfm plan`"
        ) from None


def bring_manifest(preprocessed: Path, raw: Path | None) -> None:
    """Put manifest and targets of the raw data set beside the preprocessed data, as `bdfm plan` does, where missing."""
    if raw is not None and not os.path.lexists(preprocessed / TARGETS_TYPES):
        copy_targets(raw, preprocessed)
    if raw is not None and (raw / MANIFEST).is_file() and not os.path.lexists(preprocessed / MANIFEST):
        _copy(raw / MANIFEST, preprocessed / MANIFEST)


def bring_splits(
    preprocessed: Path, raw: Path | None, cases: CaseList, tell: Callable[[str], None]
) -> list[Split] | None:
    """Return the splits beside the preprocessed data, which come from the raw data set where they are missing.

    Args:
        preprocessed: the folder of the data set in nnUNet_preprocessed.
        raw: that in nnUNet_raw, if it is there.
        cases: what is known of the cases.
        tell: takes a sentence for the log.

    Returns:
        The folds, or None where neither has any and nnU-Net's random split tears no patient apart.

    Raises:
        InputError: a file is damaged, or a random split by case would put scans of a patient on both sides.
    """
    own = preprocessed / SPLITS
    if os.path.lexists(own):
        return read_splits(own)
    if raw is not None and os.path.lexists(raw / SPLITS):
        splits = read_splits(raw / SPLITS)
        _copy(raw / SPLITS, own)
        if (raw / SPLITS_TABLE).is_file():
            _copy(raw / SPLITS_TABLE, preprocessed / SPLITS_TABLE)
        tell(f"{own} was missing; it is now a copy of that in {raw}.")
        return splits
    patients: dict[str, list[str]] = {}
    for case, patient in ({} if cases.note else groups(cases.of_part("train"), cases.scope)).items():
        patients.setdefault(patient, []).append(case)
    torn = [sorted(members) for members in patients.values() if len(members) > 1]
    if torn:
        raise InputError(
            f"{own} does not exist and nnU-Net's random split by case would put scans of one patient on both sides "
            f"({_some([' and '.join(members) for members in torn])}): write patient-wise splits "
            "with `bdfm splits`, or train fold `all`",
            entry="patients-on-both-sides",
        )
    return None


def check_fold(fold: Any, splits: list[Split], cases: Any, *, path: Path, folder: str) -> None:
    """Raise InputError unless the fold exists, has cases to train on, and all its cases are preprocessed."""
    if fold >= len(splits):
        raise InputError(
            f"{path} has {len(splits)} folds, so there is no fold {fold}: train one of 0 to {len(splits) - 1} or "
            "`all`, or add the fold to that file",
            entry="no-such-fold",
        )
    for part in ("train", "val"):
        if not splits[fold][part]:
            raise InputError(f"fold {fold} of {path} has no {part} case: make it anew with `bdfm splits --overwrite`")
    missing = sorted({*splits[fold]["train"], *splits[fold]["val"]} - {*cases})
    if missing:
        raise InputError(
            f"fold {fold} of {path} names {len(missing)} cases that are not in {folder} ({_some(missing)}): preprocess "
            "the data set again with `bdfm plan`, or make the splits anew with `bdfm splits --overwrite`",
            entry="fold-names-other-cases",
        )


def replaced_labels(checksums: Checksums | None, raw: Path | None) -> str:
    """Return a sentence on labels in nnUNet_raw that are not those of the preprocessed data, or an empty one."""
    if checksums is None or raw is None or not (raw / "dataset.json").is_file():
        return ""
    dataset = read_dataset_json(raw / "dataset.json")
    # nnU-Net's own list is made by a pool that forks, which hangs now and then in a process with threads
    named: Mapping[str, Any] = dataset.get("dataset", {})
    labels = {
        case: raw / str((named.get(case) or {}).get("label") or _label(case, dataset)) for case in checksums.cases
    }
    replaced = sorted(checksums.replaced_labels(labels))
    if not replaced:
        return ""
    return (
        f"the labels of {len(replaced)} cases in {raw} have changed since they were preprocessed ({_some(replaced)}): "
        "run `bdfm plan` again, or restore them"
    )


def _label(case: str, dataset: Mapping[str, Any]) -> str:
    return f"labelsTr/{case}{dataset['file_ending']}"


def _copy(source: Path, target: Path) -> None:
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")
