"""Folds and parts of the training cases for probes: no patient is on two sides, and classes are spread evenly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.split_files import SPLITS, read_splits
from bdfm_nnunet.targets import TargetColumn, TargetType

Indices = NDArray[np.intp]
INNER = 5
_BINS = 4


@dataclass(frozen=True)
class Fold:
    """A fold of splits_final.json.

    Attributes:
        number: its number there.
        train: places of its training cases among all cases of the probe.
        test: places of its validation cases.
    """

    number: int
    train: Indices
    test: Indices


def outer_folds(folders: Sequence[Path], cases: Sequence[str], patients: Mapping[str, str]) -> list[Fold]:
    """Return the folds of a data set, restricted to the cases of a probe.

    Of folds with the same validation cases, such as those with fewer training cases, the first is taken.

    Args:
        folders: raw and preprocessed folder of the data set; the splits of the last that has some are those of nnU-Net.
        cases: of the probe.
        patients: case -> its patient.

    Raises:
        InputError: there are no splits, a fold has no case on one side, or a patient is on both.
    """
    paths = [folder / SPLITS for folder in reversed(folders) if (folder / SPLITS).is_file()]
    if not paths:
        raise InputError(f"{folders[0]} has no {SPLITS}: make folds with `bdfm splits`")
    found: list[Fold] = []
    seen: set[frozenset[str]] = set()
    for number, split in enumerate(read_splits(paths[0])):
        if frozenset(split["val"]) not in seen:
            seen.add(frozenset(split["val"]))
            fold = _fold(number, split, cases, patients, paths[0])
            found += [fold] if len(fold.test) else []
    if not found:
        raise InputError(
            f"no validation case of {paths[0]} has both features and a target: give features and targets of its cases"
        )
    return found


def _fold(
    number: int, split: Mapping[str, Sequence[str]], cases: Sequence[str], patients: Mapping[str, str], path: Path
) -> Fold:
    place = {case: at for at, case in enumerate(cases)}
    train, test = ([place[case] for case in split[part] if case in place] for part in ("train", "val"))
    both = {patients.get(cases[at], cases[at]) for at in train} & {patients.get(cases[at], cases[at]) for at in test}
    if both:
        raise InputError(
            f"{path} has patient {min(both)} in training and validation of fold {number}, so that scores would be of "
            "patients who were trained on: make it anew with `bdfm splits --overwrite`"
        )
    if test and not train:
        raise InputError(f"fold {number} of {path} has no training case with features and a target: add some")
    return Fold(number, np.array(train, dtype=np.intp), np.array(test, dtype=np.intp))


def check_classes(column: TargetColumn, target: NDArray[np.float64], fold: Fold) -> None:
    """Raise InputError if a class, or for survival the event, is absent from the training cases of a fold."""
    if column.type.has_classes:
        everyone = np.unique(target)
        absent = [column.classes[int(number)] for number in everyone if number not in target[fold.train]]
        if len(everyone) < 2 or absent:
            what = f"class {absent[0]}" if absent else f"another class than {column.classes[int(everyone[0])]}"
            raise InputError(
                f"no training case of fold {fold.number} has {what} of {column.name}: add cases, or deal the folds out "
                f"by this target with `bdfm splits --target {column.name} --overwrite`"
            )
    elif column.type is TargetType.SURVIVAL and not target[fold.train, 1].any():
        raise InputError(f"no training case of fold {fold.number} has had the event of {column.name}: add cases")
    elif column.type is TargetType.CONTINUOUS and np.ptp(target[fold.train]) == 0:
        raise InputError(f"all training cases of fold {fold.number} have the same {column.name}: add other cases")


def strata(kind: TargetType, target: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the stratum of each case: its class, its quarter of the values, or its event.

    Example:
        >>> strata(TargetType.CONTINUOUS, np.array([1.0, 5.0, 2.0, 9.0])).tolist()
        [0, 2, 1, 3]
    """
    if kind.has_classes:
        return np.unique(target, return_inverse=True)[1]
    if kind is TargetType.SURVIVAL:
        return target[:, 1].astype(np.intp)
    ranks = np.argsort(np.argsort(target, kind="stable"), kind="stable")
    return ranks * _BINS // len(target)


def dealt(
    kind: TargetType, target: NDArray[np.float64], groups: Sequence[str], *, seed: int
) -> list[tuple[str, list[int]]]:
    """Return all patients and the places of their cases in random order, the strata taking turns.

    The first patients, however few, are thus of all strata as evenly as can be.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    names = sorted(members)
    kinds = strata(kind, target)
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    turns: dict[int, int] = {}
    sizes: dict[int, int] = {}
    of_patient = {name: int(kinds[members[name][0]]) for name in names}
    for name in names:
        sizes[of_patient[name]] = sizes.get(of_patient[name], 0) + 1
    keyed = []
    for rank in order:
        stratum = of_patient[names[rank]]
        turn = turns[stratum] = turns.get(stratum, 0) + 1
        # the first of each stratum comes first of all, the others in proportion
        keyed.append(((turn - 1) / sizes[stratum], stratum, names[rank]))
    return [(name, members[name]) for _, _, name in sorted(keyed)]


def inner_folds(
    kind: TargetType, target: NDArray[np.float64], groups: Sequence[str], *, seed: int
) -> list[tuple[Indices, Indices]]:
    """Return folds of training cases by patient; none where they are too few.

    Each has every class (for survival: events) on both sides.
    """
    patients = dealt(kind, target, groups, seed=seed)
    kinds = strata(kind, target) if kind is not TargetType.CONTINUOUS else np.zeros(len(target), dtype=int)
    firsts = [int(kinds[places[0]]) for _, places in patients]
    holders = [firsts.count(stratum) for stratum in np.unique(kinds)]
    count = min(INNER, len(patients), *holders)
    if count < 2:
        return []
    stratified: dict[int, int] = {}
    sides: list[list[int]] = [[] for _ in range(count)]
    for stratum, (_, places) in zip(firsts, patients, strict=True):
        turn = stratified[stratum] = stratified.get(stratum, -1) + 1
        sides[turn % count] += places
    everyone = np.arange(len(target))
    return [(np.setdiff1d(everyone, side), np.array(sorted(side))) for side in sides]


def fraction_of(
    kind: TargetType, target: NDArray[np.float64], groups: Sequence[str], share: float, *, seed: int
) -> Indices:
    """Return the places of a share of the training cases, whole patients, at least one of each stratum.

    The cases of a smaller share are among those of a larger one with the same seed.

    Args:
        kind: of the target.
        target: of the training cases.
        groups: patient of each.
        share: above 0, at most 1; of the cases.
        seed: of the draw.
    """
    wanted = share * len(target)
    classes = len(np.unique(strata(kind, target))) if kind is not TargetType.CONTINUOUS else 2
    chosen: list[int] = []
    for number, (_, places) in enumerate(dealt(kind, target, groups, seed=seed)):
        if number >= classes and len(chosen) + len(places) / 2 > wanted:
            break
        chosen += places
    return np.array(sorted(chosen))
