"""Cross-validation splits that keep all cases of a patient on one side."""

import random
from collections.abc import Mapping

FOLDS = 5
SEED = 12345


def grouped_splits(patients: Mapping[str, str], *, folds: int = FOLDS, seed: int = SEED) -> list[dict[str, list[str]]]:
    """Splits in nnU-Net's form: a list of `{"train": cases, "val": cases}`.

    Patients are dealt out in a seeded random order, those with most cases first, each to the fold with the fewest
    cases so far, so folds differ by less than the cases of one patient.

    Args:
        patients: case id to patient key.
        folds: number of folds; with fewer patients there are as many folds as patients.
        seed: of the random order.

    Returns:
        One entry per fold; none at all with fewer than two patients.
    """
    groups: dict[str, list[str]] = {}
    for case in sorted(patients):
        groups.setdefault(patients[case], []).append(case)
    folds = min(folds, len(groups))
    if folds < 2:
        return []
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda patient: -len(groups[patient]))
    parts: list[list[str]] = [[] for _ in range(folds)]
    for patient in order:
        min(parts, key=len).extend(groups[patient])
    return [
        {"train": sorted(case for other in parts if other is not part for case in other), "val": sorted(part)}
        for part in parts
    ]
