"""Scores of the leaderboards of BraTS 2026: those of the organisers' public package, and F1 over overlap thresholds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.challenge_rules import Task
from bdfm_nnunet.evaluation.panoptic import Match, Matched, best_pairs, match_lesions, qualities, whole_region


def leaderboard_scores(case: Case, task: Task) -> dict[str, RegionScores]:
    """Score every region of a case as the leaderboards of BraTS 2026 want it.

    Args:
        case: reference and prediction.
        task: the rules of the challenge task.

    Example:
        >>> from bdfm_nnunet.evaluation.challenge_rules import TASKS_BRATS2026
        >>> reference, prediction = np.zeros((2, 32, 32, 32), dtype=np.uint8)
        >>> reference[4:12, 4:12, 4:12] = prediction[5:13, 4:12, 4:12] = 3
        >>> prediction[20:22, 20:22, 20:22] = 3  # a false lesion
        >>> case = Case.cut(reference, prediction, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> scores = leaderboard_scores(case, TASKS_BRATS2026["MET"])["enhancing_tumor"].scores
        >>> {name: round(scores[name], 3) for name in ("sq_dsc", "large_dsc", "detection_f1", "detection_auc_f1")}
        {'sq_dsc': 0.875, 'large_dsc': 0.438, 'detection_f1': 0.667, 'detection_auc_f1': 0.625}
    """
    return {region: RegionScores(_region(case, values, task)) for region, values in case.regions.items()}


def _region(case: Case, values: Sequence[int], task: Task) -> dict[str, float]:
    masks, penalty = case.masks(values), task.penalty_for(case.shape)
    tolerance = min(case.spacing) if task.nsd_mm is None else task.nsd_mm
    found = match_lesions(*masks, case, tolerance=tolerance)
    scores = qualities(found, penalty)
    scores |= {
        "precision": _ratio(scores["tp"], found.predicted),
        "recall": _ratio(scores["tp"], len(found.sizes)),
    }
    scores |= whole_region(*masks, case.spacing, penalty, tolerance=tolerance)
    if task.large_mm3 is not None:
        scores |= _large(found, task, penalty) | _small(found, task) | _detection(found, task)
    return scores


def _ratio(count: float, of: int) -> float:
    """Return a share of lesions; NaN of none."""
    return count / of if of else np.nan


def is_large(volume: Any, task: Task) -> Any:
    """Return whether a lesion of this volume in mm3 is large; for an array, of each.

    Example:
        >>> from bdfm_nnunet.evaluation.challenge_rules import TASKS_BRATS2026
        >>> is_large(27.0, TASKS_BRATS2026["MET"]), is_large(27.0, TASKS_BRATS2026["MET-WIKI"])
        (True, False)
    """
    return volume >= task.large_mm3 if task.large_includes else volume > task.large_mm3


def _large(found: Matched, task: Task, penalty: float) -> dict[str, float]:
    """Return the scores of large lesions; missed ones and false ones of any size count as 0 and the penalty."""
    matches = [match for match in found.matches if is_large(match.volume, task)]
    number, false = int(is_large(found.sizes, task).sum()), found.predicted - len(found.matches)
    empty, found_ones = number - len(matches) + false, sum(match.dice >= task.overlap for match in matches)
    scores = {
        "large_dsc": _mean_with([match.dice for match in matches], 0.0, empty),
        "large_nsd": _mean_with([match.share for match in matches], 0.0, empty),
        "large_hd95_mm": _mean_with([match.distance for match in matches], penalty, empty),
        "large_f1": _f1(found_ones, false, number - found_ones),
    }
    return scores if number else dict.fromkeys(scores, np.nan)


def _mean_with(values: Sequence[float], other: float, count: int) -> float:
    """Return the mean of values and of `count` times another one."""
    number = len(values) + count
    return (sum(values) + other * count) / number if number else np.nan


def _f1(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan


def _small(found: Matched, task: Task) -> dict[str, float]:
    """Return the detection of small lesions, with the false ones of any size, as the organisers count them."""
    small: list[Match] = [match for match in found.matches if not is_large(match.volume, task)]
    number, tp = int((~is_large(found.sizes, task)).sum()), sum(match.dice >= task.overlap for match in small)
    fp = found.predicted - len(found.matches)
    counts = {"small_tp": float(tp), "small_fp": float(fp), "small_fn": float(number - tp)}
    scores = {**counts, "small_f1": _f1(tp, fp, number - tp)}
    return scores if number else dict.fromkeys(scores, np.nan)


def _detection(found: Matched, task: Task) -> dict[str, float]:
    """Return F1 of detection at the task's overlap, and its mean over a range of overlaps by the trapezoidal rule."""
    curve = [f1_from(found, least) for least in task.detected_from]
    steps = np.asarray(task.detected_from)
    area = float(np.sum(np.diff(steps) * (np.asarray(curve)[1:] + np.asarray(curve)[:-1]) / 2) / (steps[-1] - steps[0]))
    return {"detection_f1": f1_from(found, task.overlap), "detection_auc_f1": area}


def f1_from(found: Matched, least: float) -> float:
    """Return F1 of detection where a lesion is found by a one-to-one match of at least a Dice; NaN without lesions.

    Example:
        >>> found = Matched([], np.array([8.0, 8.0]), 1, np.array([[0, 0], [0, 0.5], [0, 0.1]]))
        >>> round(f1_from(found, 0.5), 3), f1_from(found, 0.6)
        (0.667, 0.0)
    """
    return 2 * len(best_pairs(found.overlaps, least)) / found.total if found.total else np.nan


def board_means(boards: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the figures of each leaderboard: means over its regions of the means over cases.

    Args:
        boards: leaderboard -> its `regions` and `measures`.
        summary: region -> measure -> its `mean`, None where no case has a score.

    Example:
        >>> boards = {"segmentation": {"regions": ["ET", "WT"], "measures": ["global_dice"]}}
        >>> summary = {"ET": {"global_dice": {"mean": 0.5}}, "WT": {"global_dice": {"mean": 1.0}}}
        >>> board_means(boards, summary)
        {'segmentation': {'global_dice': 0.75}}
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, board in boards.items():
        found[name] = {}
        for measure in board["measures"]:
            means = [summary[region][measure]["mean"] for region in board["regions"]]
            known = [mean for mean in means if mean is not None and not np.isnan(mean)]
            found[name][measure] = float(np.mean(known)) if known else None
    return found
