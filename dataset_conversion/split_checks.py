"""Check of splits that exist, whoever made them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bdfm_nnunet.dataset_conversion.splits import as_sets, cases_of_splits, folders_of, some
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import groups
from bdfm_nnunet.split_files import SPLITS, KeptOut, Split, read_kept_out, read_splits


@dataclass(frozen=True)
class SplitCheck:
    """The faults of existing splits.

    Attributes:
        files: the split files that were read.
        folds: number of folds.
        faults: one sentence each; empty where all is well.
    """

    files: list[Path]
    folds: int
    faults: list[str]

    def summary(self) -> str:
        """Return lines for a terminal."""
        names = " and ".join(map(str, self.files))
        if not self.faults:
            return f"{names}: {self.folds} folds, no patient is on two sides, every case is used"
        return "\n".join([f"{names}: {self.folds} folds, {len(self.faults)} faults", *(f"  {f}" for f in self.faults)])


def check_splits(dataset: int | str | os.PathLike[str], *, patients: str | None = None) -> SplitCheck:
    """Check splits that exist, whoever made them.

    Args:
        dataset: nnU-Net's number of the data set, or one folder.
        patients: as in `make_splits`.

    Raises:
        InputError: the data set is unknown or has no splits.
    """
    folders = folders_of(dataset)
    cases = cases_of_splits(folders, patients)
    files = [folder / SPLITS for folder in folders if os.path.lexists(folder / SPLITS)]
    if not files:
        raise InputError(f"{folders[0]} has no {SPLITS}: make it with `bdfm splits`")
    contents = [read_splits(path) for path in files]
    rows = cases.of_part("train")
    group = groups(rows, cases.scope, families=True)
    kept_out = read_kept_out(*folders)
    splits = contents[-1]  # the preprocessed one is what trainers read
    faults = [] if all(_agree(content, splits) for content in contents) else [
        f"{files[0]} and {files[-1]} differ: remove the wrong one, or make both anew with `bdfm splits --overwrite`"
    ]  # fmt: skip
    for number, split in enumerate(splits):
        faults += _faults_of(number, split, group)
        faults += _faults_of_kept_out(number, split, kept_out)
    faults += _faults_of_all(splits, set(group) - kept_out.cases)
    return SplitCheck(files, len(splits), faults)


def _agree(first: Sequence[Split], second: Sequence[Split]) -> bool:
    return [as_sets(split) for split in first] == [as_sets(split) for split in second]


def _faults_of(number: int, split: Split, group: Mapping[str, str]) -> list[str]:
    train, held_out = as_sets(split)
    faults = []
    for part, named in split.items():
        if unknown := sorted(set(named) - set(group)):
            faults.append(f"fold {number}: {part} names cases the data set does not have: {some(unknown)}")
        if twice := sorted(case for case, times in Counter(named).items() if times > 1):
            faults.append(f"fold {number}: {part} names cases twice: {some(twice)}")
    if both := sorted(train & held_out):
        faults.append(f"fold {number}: cases in train and val: {some(both)}")
    if not train or not held_out:
        faults.append(f"fold {number}: {'train' if not train else 'val'} is empty")
    sides: dict[str, list[str]] = {}
    for case in sorted(train - held_out):
        sides.setdefault(group.get(case, case), []).append(case)
    for case in sorted(held_out - train):
        if others := sides.get(group.get(case, case)):
            faults.append(f"fold {number}: {case} in val is of the same patient as {some(others)} in train")
    return faults


def _faults_of_kept_out(number: int, split: Split, kept_out: KeptOut) -> list[str]:
    wrong = sorted(kept_out.external & {*split["train"], *split["val"]})
    return [f"fold {number}: {some(wrong)} is of a site that was kept out"] if wrong else []


def _faults_of_all(splits: Sequence[Split], everyone: set[str]) -> list[str]:
    """Return the faults of the folds together; folds with fewer training cases must be parts of a whole one."""
    sets = [as_sets(split) for split in splits]
    whole = [number for number, (train, held_out) in enumerate(sets) if train | held_out >= everyone]
    faults = []
    if not whole:
        return ["no fold uses every case: cases were added or removed since the splits were made"]
    validated = Counter(case for number in whole for case in sets[number][1])
    if never := sorted(everyone - set(validated)):
        faults.append(f"never validated in a whole fold: {some(never)}")
    if often := sorted(case for case, times in validated.items() if times > 1):
        faults.append(f"validated in more than one whole fold: {some(often)}")
    for number, (train, held_out) in enumerate(sets):
        if number not in whole and not any(sets[base][1] == held_out and train <= sets[base][0] for base in whole):
            faults.append(f"fold {number}: is no part of a whole fold with the same validation cases")
    return faults
