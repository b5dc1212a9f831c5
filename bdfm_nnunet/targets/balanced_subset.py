"""A balanced part of a cohort: as many patients of each class, one scan each, drawn with a seed."""

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets.target_types import Targets


def balanced(targets: Targets, name: str, *, seed: int) -> tuple[Targets, int]:
    """Return targets in which only a balanced part of the patients has a value of one target.

    Of every class as many patients are drawn as the rarest one has; of each the first scan by case id keeps its value,
    all other values of this target become missing. BDFM's classification of 206 cases of UCSF-PDGM fits 103 patients
    with an IDH mutation and as many without.

    Args:
        targets: of the data set.
        name: of a target with classes.
        seed: of the draw.

    Returns:
        The targets, and the number of patients per class.

    Raises:
        InputError: there is no such target, it has no classes, or a class has no patient.
    """
    column = targets.columns.get(name)
    if column is None or not column.type.has_classes:
        named = [each.name for each in targets.columns.values() if each.type.has_classes]
        raise InputError(
            f"--balanced {name} names no target with classes ({', '.join(named) or 'there is none'}): name one of these"
        )
    known = targets.known(name)
    values = targets.values(name, known)[:, 0]
    first: dict[str, tuple[str, int]] = {}
    for case, value in sorted(zip(known, values.tolist())):
        first.setdefault(targets.patients[case], (case, int(value)))
    members = _members(first, len(column.classes))
    size = min(map(len, members))
    if not size:
        lacking = column.classes[[len(each) for each in members].index(0)]
        raise InputError(f"--balanced {name} is impossible: no patient has the class {lacking}")
    draw = random.Random(f"balanced {name} {seed}")
    chosen = {case for each in members for case in draw.sample(each, size)}
    keep = np.array([case in chosen for case in targets.cases])[:, None]
    return replace(targets, numbers={**targets.numbers, name: np.where(keep, targets.numbers[name], np.nan)}), size


def _members(first: Mapping[str, tuple[str, int]], classes: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(classes)]
    for patient in sorted(first):
        case, number = first[patient]
        found[number].append(case)
    return found
