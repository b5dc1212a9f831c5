"""Panoptic scores as the organisers of BraTS 2026 compute them: lesions matched one to one.

They use panoptica (Kofler et al. 2023, https://arxiv.org/abs/2312.02608). Panoptic quality is the product of
segmentation quality, the mean Dice of matched lesions, and recognition quality, 2 TP / (2 TP + FP + FN).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.challenge_rules import Task
from bdfm_nnunet.evaluation.components import Numbers, components
from bdfm_nnunet.evaluation.nearest import Mask, around
from bdfm_nnunet.evaluation.voxelwise import dice, surface_dice, surface_distances

LEAST_DICE = 1e-6
"""Dice of the worst match; the same number lies between the cost of no match and of the worst match."""


@dataclass(frozen=True)
class Match:
    """A reference lesion and the predicted one that it was matched with.

    Attributes:
        volume: of the reference lesion, mm3.
        dice: of the two.
        distance: their HD95 in mm, of both surfaces together.
        share: their NSD.

    Example:
        >>> Match(volume=64.0, dice=0.875, distance=1.0, share=1.0).dice
        0.875
    """

    volume: float
    dice: float
    distance: float
    share: float


@dataclass(frozen=True)
class Matched:
    """Lesions of a region, matched one to one.

    Attributes:
        matches: the pairs that overlap.
        sizes: volume of every reference lesion, mm3.
        predicted: number of predicted lesions.
        overlaps: Dice of every pair of lesions, (lesions + 1, predicted lesions + 1); row and column 0 are 0.

    Example:
        >>> Matched([], np.array([64.0, 8.0]), 1, np.zeros((3, 2))).total
        3
    """

    matches: list[Match]
    sizes: NDArray[np.float64]
    predicted: int
    overlaps: NDArray[np.float64]

    @property
    def total(self) -> int:
        """Number of lesions on both sides."""
        return len(self.sizes) + self.predicted


def panoptic_scores(case: Case, task: Task) -> dict[str, RegionScores]:
    """Score every region of a case by matched lesions.

    Args:
        case: reference and prediction.
        task: the rules of the challenge task: the penalty, and the limit between small and large lesions.

    Example:
        >>> from bdfm_nnunet.evaluation.challenge_rules import TASKS_2026
        >>> reference, prediction = np.zeros((2, 32, 32, 32), dtype=np.uint8)
        >>> reference[4:12, 4:12, 4:12] = prediction[5:13, 4:12, 4:12] = 3
        >>> prediction[20:22, 20:22, 20:22] = 3  # a false lesion
        >>> case = Case.cut(reference, prediction, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> scores = panoptic_scores(case, TASKS_2026["GLI"])["enhancing_tumor"].scores
        >>> {name: round(scores[name], 3) for name in ("sq_dsc", "rq", "pq_dsc")}
        {'sq_dsc': 0.875, 'rq': 0.667, 'pq_dsc': 0.583}
    """
    return {region: RegionScores(_region(*case.masks(values), case, task)) for region, values in case.regions.items()}


def _region(reference: Mask, prediction: Mask, case: Case, task: Task) -> dict[str, float]:
    penalty = task.penalty_for(case.shape)
    found = match_lesions(reference, prediction, case, tolerance=min(case.spacing))
    scores = qualities(found, penalty)
    scores |= whole_region(reference, prediction, case.spacing, penalty)
    if task.large_mm3 is not None:
        scores |= _by_size(found.matches, found.sizes, task, penalty)
    return scores


def match_lesions(reference: Mask, prediction: Mask, case: Case, *, tolerance: float) -> Matched:
    """Match the lesions of two masks one to one.

    Args:
        reference: mask (x, y, z).
        prediction: mask of the same shape.
        case: that they belong to.
        tolerance: of NSD, mm.

    Example:
        >>> reference, prediction = np.zeros((2, 32, 32, 32), dtype=np.uint8)
        >>> reference[4:12, 4:12, 4:12] = prediction[5:13, 4:12, 4:12] = 3
        >>> prediction[20:22, 20:22, 20:22] = 3  # a false lesion
        >>> case = Case.cut(reference, prediction, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> found = match_lesions(*case.masks((3,)), case, tolerance=1.0)
        >>> found.matches, found.sizes, found.predicted
        ([Match(volume=512.0, dice=0.875, distance=1.0, share=1.0)], array([512.]), 2)
    """
    lesions, predicted = components(reference), components(prediction)
    overlaps = _overlaps(lesions, predicted)
    places = ndimage.find_objects(lesions), ndimage.find_objects(predicted)
    matches = []
    for first, second in best_pairs(overlaps):
        box = around([places[0][first - 1], places[1][second - 1]])
        masks = lesions[box] == first, predicted[box] == second
        matches.append(_measured(*masks, float(overlaps[first, second]), case, tolerance))
    sizes = np.bincount(lesions.ravel())[1:].astype(np.float64) * case.voxel_mm3
    return Matched(matches, sizes, int(predicted.max(initial=0)), overlaps)


def _overlaps(lesions: Numbers, predicted: Numbers) -> NDArray[np.float64]:
    """Return the Dice of every pair of lesions, (lesions + 1, predicted lesions + 1); row and column 0 are 0."""
    shape = int(lesions.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    common = np.bincount(
        (lesions.astype(np.int64) * shape[1] + predicted).ravel(), minlength=shape[0] * shape[1]
    ).reshape(shape)
    both = common.sum(axis=1)[:, None] + common.sum(axis=0)[None]
    overlaps = 2.0 * common / np.maximum(both, 1)
    overlaps[0], overlaps[:, 0] = 0, 0
    return overlaps


def best_pairs(overlaps: NDArray[np.float64], least: float = LEAST_DICE) -> list[tuple[int, int]]:
    """Return the one-to-one pairing with the largest sum of Dice, without pairs below a Dice.

    Args:
        overlaps: as in `Matched`.
        least: smallest Dice of a pair, above 0.

    Example:
        >>> best_pairs(np.array([[0, 0, 0], [0, 0.9, 0.8], [0, 0.7, 0]]))
        [(1, 2), (2, 1)]
    """
    costs = np.where(overlaps >= least, 1 - overlaps, 1 + LEAST_DICE)[1:, 1:]
    rows, columns = linear_sum_assignment(costs)
    return [(int(i) + 1, int(j) + 1) for i, j in zip(rows, columns, strict=True) if costs[i, j] < 1]


def _measured(lesion: Mask, predicted: Mask, overlap: float, case: Case, tolerance: float) -> Match:
    apart = surface_distances(lesion, predicted, spacing=case.spacing)
    volume = float(lesion.sum()) * case.voxel_mm3
    return Match(volume, overlap, _pooled95(apart), surface_dice(apart, tolerance))


def _pooled95(distances: Sequence[NDArray[np.float64]]) -> float:
    return float(np.percentile(np.concatenate(distances), 95))


def _mean(values: Sequence[float], otherwise: float) -> float:
    return float(np.mean(values)) if values else otherwise


def qualities(found: Matched, penalty: float) -> dict[str, float]:
    """Return segmentation quality over matched lesions and recognition quality over all; NaN without any lesion.

    Args:
        found: the lesions.
        penalty: HD95 in mm where no lesion is matched.

    Example:
        >>> found = Matched([Match(64.0, 0.8, 1.0, 0.9)], np.array([64.0, 8.0]), 1, np.zeros((3, 2)))
        >>> {name: round(value, 3) for name, value in qualities(found, 374.0).items() if "q_" in name or name == "rq"}
        {'sq_dsc': 0.8, 'sq_hd95_mm': 1.0, 'sq_nsd': 0.9, 'rq': 0.667, 'pq_dsc': 0.533}
    """
    matches, tp, anything = found.matches, len(found.matches), found.total > 0
    none, far = (0.0, penalty) if anything else (np.nan, np.nan)
    overlap = _mean([match.dice for match in matches], none)
    recognised = 2 * tp / found.total if anything else np.nan
    return {
        "sq_dsc": overlap,
        "sq_hd95_mm": _mean([match.distance for match in matches], far),
        "sq_nsd": _mean([match.share for match in matches], none),
        "rq": recognised,
        "pq_dsc": overlap * recognised,
        "tp": tp,
        "fp": found.predicted - tp,
        "fn": len(found.sizes) - tp,
    }


def whole_region(
    reference: Mask, prediction: Mask, spacing: tuple[float, ...], penalty: float, *, tolerance: float | None = None
) -> dict[str, float]:
    """Return Dice, HD95 and perhaps NSD of the region as one piece; those of a missed lesion without an overlap.

    Args:
        reference: mask (x, y, z).
        prediction: mask of the same shape.
        spacing: voxel size in mm.
        penalty: HD95 in mm of a missed lesion.
        tolerance: of NSD, mm; None leaves NSD out.

    Example:
        >>> reference, prediction = np.zeros((2, 16, 16, 16), dtype=bool)
        >>> reference[4:12, 4:12, 4:12] = prediction[5:13, 4:12, 4:12] = True
        >>> whole_region(reference, prediction, (1.0, 1.0, 1.0), 374.0, tolerance=1.0)
        {'global_dice': 0.875, 'global_hd95_mm': 1.0, 'global_nsd': 1.0}
    """
    names = ("global_dice", "global_hd95_mm", *(() if tolerance is None else ("global_nsd",)))
    if not (reference & prediction).any():
        nothing = not (reference.any() or prediction.any())
        return dict(zip(names, (np.nan,) * 3 if nothing else (0.0, penalty, 0.0)))
    apart = surface_distances(reference, prediction, spacing=spacing)
    share = () if tolerance is None else (surface_dice(apart, tolerance),)
    return dict(zip(names, (dice(reference, prediction), _pooled95(apart), *share)))


def _by_size(matches: Sequence[Match], sizes: NDArray[Any], task: Task, penalty: float) -> dict[str, float]:
    assert task.large_mm3 is not None
    large = [match for match in matches if match.volume > task.large_mm3]
    none, far = (0.0, penalty) if (sizes > task.large_mm3).any() else (np.nan, np.nan)
    found = sum(match.volume <= task.large_mm3 and match.dice >= task.overlap for match in matches)
    return {
        "large_sq_dsc": _mean([match.dice for match in large], none),
        "large_sq_hd95_mm": _mean([match.distance for match in large], far),
        "small_tp": found,
        "small_fn": int((sizes <= task.large_mm3).sum()) - found,
    }
