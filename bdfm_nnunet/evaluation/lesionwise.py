"""Lesion-wise scores as the BraTS organisers compute them, 2023 to 2025.

Definition of 2023: https://www.synapse.org/Synapse:syn51156910/discussion/threadId=10357, code:
https://github.com/rachitsaluja/BraTS-2023-Metrics.

A reference lesion is paired with all predicted lesions that reach into its dilation. A lesion without a partner, on
either side, has Dice 0 and a fixed HD95. The score of a region is the mean over reference lesions and false lesions.
Scores of the whole region (`legacy_`, sensitivity, specificity) are computed from masks: the organisers' code of 2024
computes them from lesion numbers, which is wrong as soon as there are two lesions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from bdfm_nnunet.evaluation.case_scores import Case, RegionScores, mask_of
from bdfm_nnunet.evaluation.challenge_rules import Task, tissue_of
from bdfm_nnunet.evaluation.components import Lesions, components, joined_by, lesions_of, without_small
from bdfm_nnunet.evaluation.nearest import Mask, around
from bdfm_nnunet.evaluation.surfaces import surfel_hausdorff
from bdfm_nnunet.evaluation.voxelwise import dice, surface_dice, surface_distances

TOLERANCES_MM = (0.5, 1.0)


@dataclass(frozen=True)
class _Measure:
    """Measures of two masks: Dice, HD95 (`penalty` if it is undefined), and NSD at the tolerances."""

    spacing: tuple[float, ...]
    penalty: float
    tolerances: Sequence[float]

    def __call__(self, reference: Mask, prediction: Mask) -> dict[str, float]:
        present = bool(reference.any()), bool(prediction.any())
        if not all(present):
            alike = float(not any(present))
            return self.named(alike, 0.0 if alike else self.penalty, [alike] * len(self.tolerances))
        distance = surfel_hausdorff(reference, prediction, spacing=self.spacing)
        apart = surface_distances(reference, prediction, spacing=self.spacing) if self.tolerances else None
        shares = [surface_dice(apart, tolerance) for tolerance in self.tolerances] if apart else []
        return self.named(dice(reference, prediction), distance, shares)

    def named(self, overlap: float, distance: float, shares: Sequence[float]) -> dict[str, float]:
        return {
            "dice": overlap,
            "hd95_mm": distance,
            **{f"nsd_{tolerance}": share for tolerance, share in zip(self.tolerances, shares, strict=True)},
        }


class _Tissues:
    """Lesions of each tissue on both sides, before contact joins them; each is computed once."""

    def __init__(self, case: Case, task: Task) -> None:
        self.case, self.task = case, task
        self.values = {tissue_of(region): tuple(values) for region, values in case.regions.items()}
        if {"TC", "ET"} <= set(self.values) and "NETC" not in self.values:
            self.values["NETC"] = tuple(set(self.values["TC"]) - set(self.values["ET"]))
        self.reference = cache(self._reference)
        self.prediction = cache(self._prediction)

    def _reference(self, tissue: str) -> Lesions:
        mask = mask_of(self.case.reference, self.values[tissue])
        return lesions_of(mask, dilation=self.task.rule_for(tissue).dilation)

    def _prediction(self, tissue: str) -> Lesions:
        mask = mask_of(self.case.prediction, self.values[tissue])
        if not self.task.joins_prediction:
            return Lesions.of(mask, components(mask))
        rule = self.task.rule_for(tissue)
        unit = self.case.voxel_mm3 if self.task.threshold_in_mm3 else 1.0
        return without_small(lesions_of(mask, dilation=rule.dilation), rule.threshold / unit)

    def joined(self, tissue: str) -> tuple[Lesions, Lesions]:
        """Return reference and predicted lesions, joined by contact with the partners of the tissue."""
        partners = [name for name in self.task.partners.get(tissue, ()) if name in self.values]
        return (
            joined_by(self.reference(tissue), [self.reference(name) for name in partners]),
            joined_by(self.prediction(tissue), [self.prediction(name) for name in partners]),
        )


def lesionwise_scores(case: Case, task: Task, *, tolerances: Sequence[float]) -> dict[str, RegionScores]:
    """Score every region of a case lesion by lesion.

    Args:
        case: reference and prediction.
        task: the rules of the challenge task.
        tolerances: tolerances of NSD in mm; empty for a metric version without NSD.

    Returns:
        Region name -> scores and a table of its lesions.

    Example:
        >>> from bdfm_nnunet.evaluation.challenge_rules import TASKS_2023
        >>> reference, prediction = np.zeros((2, 32, 32, 32), dtype=np.uint8)
        >>> reference[4:12, 4:12, 4:12] = prediction[4:12, 4:12, 4:12] = 3
        >>> prediction[20:22, 20:22, 20:22] = 3  # a false lesion
        >>> case = Case.cut(reference, prediction, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> scores = lesionwise_scores(case, TASKS_2023["GLI"], tolerances=())["enhancing_tumor"].scores
        >>> scores["lw_dice"], scores["lw_hd95_mm"], scores["fp"]
        (0.5, 187.0, 1)
    """
    tissues = _Tissues(case, task)
    measure = _Measure(case.spacing, task.penalty_for(case.shape), tolerances)
    return {
        region: _Region(*tissues.joined(tissue_of(region)), case, measure).scores(
            task.rule_for(tissue_of(region)).threshold, task.false_positives_count
        )
        for region in case.regions
    }


class _Region:
    def __init__(self, reference: Lesions, prediction: Lesions, case: Case, measure: _Measure) -> None:
        self.case, self.measure = case, measure
        self.partners = _partners(reference, prediction)
        self.volumes = reference.volume(), prediction.volume()
        self.masks = self.volumes[0] > 0, self.volumes[1] > 0
        self.whole = measure(*self.masks)
        self.places = [ndimage.find_objects(volume) for volume in self.volumes]
        self.sizes = [np.bincount(lesions.numbers, minlength=1) for lesions in (reference, prediction)]

    def scores(self, threshold: float, false_positives_count: bool) -> RegionScores:
        found = [self._lesion(int(number), threshold) for number in np.flatnonzero(self.sizes[0])]
        false = self._false_positives()
        counted = [row for row in found if row["counted"]]
        missed = sum(not row["predicted"] for row in counted)
        scores = {
            **self._means(counted, len(false) if false_positives_count else 0),
            "tp": len(counted) - missed,
            "fp": len(false),
            "fn": missed,
            **{f"legacy_{name}": value for name, value in self.whole.items()},
            **self._voxel_rates(),
        }
        return RegionScores(scores, [*found, *false])

    def _means(self, counted: Sequence[dict[str, Any]], false: int) -> dict[str, float]:
        total = len(counted) + false
        nothing, miss = self.measure.named(1.0, 0.0, [1.0] * len(self.measure.tolerances)), self._miss()
        sums = {name: sum(row[name] for row in counted) + false * miss[name] for name in miss}
        return {f"lw_{name}": sums[name] / total if total else nothing[name] for name in sums}

    def _miss(self) -> dict[str, float]:
        return self.measure.named(0.0, self.measure.penalty, [0.0] * len(self.measure.tolerances))

    def _lesion(self, number: int, threshold: float) -> dict[str, Any]:
        volume = float(self.sizes[0][number]) * self.case.voxel_mm3
        partners = self.partners.get(number, [])
        row = {"id": number, "volume_mm3": volume, "counted": volume > threshold, "predicted": partners}
        return {**row, **(self._pair(number, partners) if partners else self._miss())}

    def _pair(self, number: int, partners: Sequence[int]) -> dict[str, float]:
        if self._is_all(number, partners):
            return self.whole
        box = around([self.places[0][number - 1], *(self.places[1][partner - 1] for partner in partners)])
        return self.measure(self.volumes[0][box] == number, np.isin(self.volumes[1][box], partners))

    def _is_all(self, number: int, partners: Sequence[int]) -> bool:
        both = zip(self.sizes, ([number], list(partners)), strict=True)
        return all(sizes[numbers].sum() == sizes.sum() for sizes, numbers in both)

    def _false_positives(self) -> list[dict[str, Any]]:
        hit = {partner for partners in self.partners.values() for partner in partners}
        numbers = [int(number) for number in np.flatnonzero(self.sizes[1]) if number not in hit]
        volumes = [float(self.sizes[1][number]) * self.case.voxel_mm3 for number in numbers]
        return [
            {"id": None, "volume_mm3": volume, "counted": True, "predicted": [number], **self._miss()}
            for number, volume in zip(numbers, volumes, strict=True)
        ]

    def _voxel_rates(self) -> dict[str, float]:
        both, marked = int((self.masks[0] & self.masks[1]).sum()), [int(sizes.sum()) for sizes in self.sizes]
        negatives = int(np.prod(self.case.shape)) - marked[0]
        return {
            "sensitivity": both / marked[0] if marked[0] else float(not marked[1]),
            "specificity": (negatives - (marked[1] - both)) / negatives if negatives else 0.0,
        }


def _partners(reference: Lesions, prediction: Lesions) -> dict[int, list[int]]:
    """Return reference lesion -> predicted lesions that reach into its zone."""
    zones = reference.zone_at(prediction.places)
    base = int(prediction.numbers.max(initial=0)) + 1
    partners: dict[int, list[int]] = {}
    for code in np.unique((zones * base + prediction.numbers)[zones > 0]):
        partners.setdefault(int(code // base), []).append(int(code % base))
    return partners
