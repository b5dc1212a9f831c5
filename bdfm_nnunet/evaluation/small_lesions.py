"""Small lesions alone: how many are found, how many are invented, and how well the found ones are outlined.

Lesions are connected components (26 neighbours) up to a volume in mm3, so voxel size does not matter. The score of a
whole region hardly notices them: of ten lesions of 30 mm3 beside one of 30 cm3 all may be missed for 0.5 % of Dice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.challenge_rules import Task
from bdfm_nnunet.evaluation.components import Numbers, components
from bdfm_nnunet.evaluation.nearest import Mask

SMALL_MM3 = 100.0
"""Largest volume of a small lesion where none is asked for: a ball of 5.8 mm."""


def small_lesion_scores(case: Case, task: Task) -> dict[str, RegionScores]:
    """Score the small lesions of every region of a case.

    A reference lesion is found where any predicted voxel lies in it; a small predicted lesion is false where it meets
    no reference lesion of any size. The Dice of a lesion is that with the predicted lesions that meet it; of predicted
    voxels that join several lesions, each belongs to the nearest one. A missed lesion has Dice 0.

    Args:
        case: reference and prediction.
        task: its `large_mm3` is the largest volume of a small lesion.

    Returns:
        Region name -> scores and a table of its small lesions. A score over no lesions is NaN.

    Example:
        >>> reference, prediction = np.zeros((2, 32, 32, 32), dtype=np.uint8)
        >>> reference[2:12, 2:12, 2:12] = prediction[2:12, 2:12, 2:12] = 1  # a large lesion, found
        >>> reference[20:24, 4:6, 4:6] = prediction[21:25, 4:6, 4:6] = 1  # a small one, a voxel off
        >>> reference[20:22, 24:26, 4:6] = prediction[4:6, 24:26, 24:26] = 1  # one missed, one invented
        >>> case = Case.cut(reference, prediction, spacing=(1, 1, 1), regions={"lesion": (1,)})
        >>> scores = small_lesion_scores(case, Task(large_mm3=100))["lesion"].scores
        >>> scores["small_f1"], scores["small_sensitivity"], scores["small_dice"]
        (0.5, 0.5, 0.375)
    """
    limit = SMALL_MM3 if task.large_mm3 is None else task.large_mm3
    return {region: _Lesions.of(case, values).scores(limit) for region, values in case.regions.items()}


@dataclass(frozen=True)
class _Lesions:
    """Lesions of both sides, by number; index 0 is the background."""

    volumes_mm3: tuple[NDArray[Any], NDArray[Any]]
    partners: Mapping[int, Sequence[int]]  # predicted lesion -> reference lesions that it meets
    dice: NDArray[np.float64]  # of each reference lesion

    @staticmethod
    def of(case: Case, values: Sequence[int]) -> "_Lesions":
        lesions, predicted = (components(mask) for mask in case.masks(values))
        partners = _partners(lesions, predicted)
        sizes = [np.bincount(numbers.ravel()) for numbers in (lesions, predicted)]
        owned = np.bincount(_owners(lesions, predicted, partners, case.spacing), minlength=len(sizes[0]))
        common = np.bincount(lesions[predicted > 0], minlength=len(sizes[0]))
        dice = 2.0 * common / np.maximum(sizes[0] + owned, 1)
        volumes = sizes[0] * case.voxel_mm3, sizes[1] * case.voxel_mm3
        return _Lesions(volumes, partners, dice)

    def scores(self, limit: float) -> RegionScores:
        small, invented = (np.flatnonzero(volumes[1:] <= limit) + 1 for volumes in self.volumes_mm3)
        invented = np.array([number for number in invented if int(number) not in self.partners], dtype=np.int64)
        found = self.dice[small] > 0
        tp, fn, fp = int(found.sum()), int((~found).sum()), len(invented)
        scores = {
            "small_f1": _share(2 * tp, 2 * tp + fp + fn),
            "small_dice": float(self.dice[small].mean()) if len(small) else np.nan,
            "small_sensitivity": _share(tp, tp + fn),
            "small_precision": _share(tp, tp + fp),
            "small_tp": tp,
            "small_fp": fp,
            "small_fn": fn,
        }
        return RegionScores(scores, [*self._rows(small), *self._false(invented)])

    def _rows(self, small: NDArray[Any]) -> list[dict[str, Any]]:
        met: dict[int, list[int]] = {}
        for predicted, lesions in self.partners.items():
            for lesion in lesions:
                met.setdefault(lesion, []).append(predicted)
        return [
            {
                "id": int(number),
                "volume_mm3": float(self.volumes_mm3[0][number]),
                "predicted": met.get(int(number), []),
                "dice": float(self.dice[number]),
            }
            for number in small
        ]

    def _false(self, invented: NDArray[Any]) -> list[dict[str, Any]]:
        return [
            {"id": None, "volume_mm3": float(self.volumes_mm3[1][n]), "predicted": [int(n)], "dice": 0.0}
            for n in invented
        ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def _partners(lesions: Numbers, predicted: Numbers) -> dict[int, list[int]]:
    """Return predicted lesion -> the reference lesions that it meets."""
    both = (lesions > 0) & (predicted > 0)
    pairs = np.unique(np.stack([predicted[both], lesions[both]]).astype(np.int64), axis=1)
    partners: dict[int, list[int]] = {}
    for found, lesion in pairs.T:
        partners.setdefault(int(found), []).append(int(lesion))
    return partners


def _owners(
    lesions: Numbers, predicted: Numbers, partners: Mapping[int, Sequence[int]], spacing: Sequence[float]
) -> NDArray[np.int64]:
    """Return the reference lesion to which each voxel of a predicted lesion that meets any belongs."""
    table = np.zeros(int(predicted.max(initial=0)) + 1, dtype=np.int64)
    for number, met in partners.items():
        table[number] = met[0] if len(met) == 1 else 0
    alone = table[predicted[predicted > 0]]
    joined = [
        _nearest(predicted == number, np.where(np.isin(lesions, met), lesions, 0), spacing)
        for number, met in partners.items()
        if len(met) > 1
    ]
    return np.concatenate([alone[alone > 0], *joined])


def _nearest(mask: Mask, lesions: Numbers, spacing: Sequence[float]) -> NDArray[np.int64]:
    """Return the number of the lesion that is nearest, in mm, to each voxel of a mask; of two the lower one."""
    numbers, steps = np.unique(lesions[lesions > 0]), np.asarray(spacing, dtype=np.float64)
    points = np.argwhere(mask) * steps
    away = [cKDTree(np.argwhere(lesions == number) * steps).query(points)[0] for number in numbers]
    nearest: NDArray[np.int64] = numbers[np.round(away, 6).argmin(axis=0)].astype(np.int64)
    return nearest
