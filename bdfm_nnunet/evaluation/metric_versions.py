"""The metric versions by name: their definitions, their rules, and the scores that decide."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.centrelines import vessel_scores
from bdfm_nnunet.evaluation.challenge_rules import (
    TASKS_2023,
    TASKS_2024,
    TASKS_2026,
    TASKS_BRATS2026,
    Task,
    leaderboard_parameters,
    lesionwise_parameters,
    panoptic_parameters,
    task_name,
)
from bdfm_nnunet.evaluation.leaderboards import leaderboard_scores
from bdfm_nnunet.evaluation.lesionwise import TOLERANCES_MM, lesionwise_scores
from bdfm_nnunet.evaluation.panoptic import panoptic_scores
from bdfm_nnunet.evaluation.small_lesions import SMALL_MM3, small_lesion_scores
from bdfm_nnunet.evaluation.voxelwise import dice, hd95


def whole_region_scores(case: Case, task: Task) -> dict[str, RegionScores]:
    """Return Dice and HD95 of every region as one piece, however many lesions it has.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((20, 20, 20), dtype=np.uint8)
        >>> labels[4:12, 4:12, 4:12] = 3
        >>> case = Case.cut(labels, 0 * labels, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> whole_region_scores(case, Task(penalty=374.0))["enhancing_tumor"].scores
        {'dice': 0.0, 'hd95_mm': 374.0}
    """
    assert task.penalty is not None
    regions = {}
    for region, values in case.regions.items():
        masks = case.masks(values)
        distance = hd95(*masks, spacing=case.spacing, missing_distance=task.penalty)
        regions[region] = RegionScores({"dice": dice(*masks), "hd95_mm": distance})
    return regions


@dataclass(frozen=True)
class MetricVersion:
    """A named way to score a case; every result records its name and `definition`.

    Attributes:
        definition: the definition in words.
        measures: the scores that decide -> whether a larger value is better.
        score: function that scores a case by the rules of a task.
        tasks: task -> its rules; empty if every release is scored alike.
        parameters: function of the task's name, its rules and the regions that returns the rules for the record.
        missing: scores of a case without a prediction; None if the version has none.

    Example:
        >>> from bdfm_nnunet.evaluation import METRICS
        >>> sorted(METRICS)
        ['brats-2026', 'lesionwise-2023', 'lesionwise-2024', 'panoptic-2026', 'small-lesions', 'vessels', 'whole']
        >>> METRICS["lesionwise-2023"].measures
        {'lw_dice': True, 'lw_hd95_mm': False}
    """

    definition: str
    measures: Mapping[str, bool]
    score: Callable[[Case, Task], dict[str, RegionScores]]
    tasks: Mapping[str, Task] = field(default_factory=dict)
    parameters: Callable[[str, Task, Sequence[str]], dict[str, Any]] = lesionwise_parameters
    missing: Mapping[str, float] | None = None


_LESIONWISE = (
    "Lesion-wise as BraTS {years} computes it, on pieces by 26 neighbours. Reference pieces whose dilations (18 "
    "neighbours, iterated) touch are one lesion; a predicted lesion belongs to every reference lesion into whose "
    "dilation it reaches. lw_: mean over reference lesions above the threshold and predicted ones that belong to none, "
    "which have Dice 0{nsd} and HD95 the penalty, as missed lesions have; nothing to average: Dice 1{nsd1}, HD95 0. "
    "HD95: the larger of the two directed percentiles of distances between surface elements weighted by area. legacy_: "
    "of the region as one piece. Sensitivity and specificity: of voxels. {rest}"
)
SMALL_LESIONS, VESSELS = "small-lesions", "vessels"
_VERSIONS = {
    2023: _LESIONWISE.format(
        years="2023", nsd="", nsd1="", rest="Predicted pieces are neither joined nor dropped, whatever their size."
    ),
    2024: _LESIONWISE.format(
        years="2024 and 2025",
        nsd=", NSD 0",
        nsd1=", NSD 1",
        rest="Except in MEN, predicted pieces are joined like the reference's, and those up to the threshold are "
        "dropped before anything is scored, legacy_ too. Lesions that touch the same lesion of a partner tissue "
        "are joined, where more than one pair touches. NSD: the mean of the two shares of surface voxels within "
        "0.5 or 1 mm of the other's, as nnU-Net defines it. SNFH of GLI is dilated 3 times: 5 was meant, but a "
        "typing error in the organisers' code gives 3. legacy_ and sensitivity are of masks, where that code "
        "takes numbers of lesions.",
    ),
}

METRICS: dict[str, MetricVersion] = {
    "whole": MetricVersion(
        "Dice and HD95 of the whole region. HD95: the larger of the two directed 95th percentiles of distances between "
        "surface voxels. Region empty in both: Dice 1, HD95 0; in one: Dice 0, HD95 the missing distance.",
        {"dice": True, "hd95_mm": False},
        whole_region_scores,
    ),
    "lesionwise-2023": MetricVersion(
        _VERSIONS[2023],
        {"lw_dice": True, "lw_hd95_mm": False},
        partial(lesionwise_scores, tolerances=()),
        TASKS_2023,
    ),
    "lesionwise-2024": MetricVersion(
        _VERSIONS[2024],
        {"lw_dice": True, "lw_hd95_mm": False, **{f"lw_nsd_{tolerance}": True for tolerance in TOLERANCES_MM}},
        partial(lesionwise_scores, tolerances=TOLERANCES_MM),
        TASKS_2024,
    ),
    "panoptic-2026": MetricVersion(
        "Panoptic as BraTS 2026 computes it with panoptica: pieces by 26 neighbours, matched one to one for the "
        "largest sum of Dice, a match having Dice of at least 1e-6; no dilation. sq_: mean over matched lesions alone "
        "(Dice; 95th percentile of the distances of both surfaces together; NSD at the smallest spacing); rq: F1 of "
        "lesions; pq_dsc: their product; global_: of the region as one piece, its HD95 in mm, where panoptica counts "
        "voxels. Region empty in both: not defined, left out of means; no match: 0, HD95 373 mm; case without "
        "prediction: the same. Metastases: large_ over lesions above 27 mm3, small_ counts smaller ones as "
        "found from a Dice of 0.2 (sources differ: the defaults of the organisers' public package brats-evaluation are "
        "20 mm3 and 0.1, the challenge's wiki of spring 2026 speaks of 275 mm3).",
        {"sq_dsc": True, "sq_hd95_mm": False, "rq": True, "global_dice": True},
        panoptic_scores,
        TASKS_2026,
        panoptic_parameters,
        missing={
            **dict.fromkeys(("sq_dsc", "sq_nsd", "rq", "pq_dsc", "global_dice"), 0.0),
            **dict.fromkeys(("sq_hd95_mm", "global_hd95_mm"), 373.0),
        },
    ),
    "brats-2026": MetricVersion(
        "The leaderboards of BraTS 2026. Lesions, matches, sq_, rq and global_ as in panoptic-2026; precision and "
        "recall of lesions; NSD at the tolerance of the task. Metastases: large_ are means over large reference "
        "lesions, with Dice 0, NSD 0 and the penalty for each missed one and for each false lesion of any size; "
        "large_f1 and small_f1 count a lesion as found from an overlap, and false lesions of any size. detection_f1: "
        "2 TP over all lesions of both sides, with one-to-one matches of at least that Dice; detection_auc_f1: its "
        "mean over a range of Dice by the trapezoidal rule. Nothing to score: not defined, left out of means; case "
        "without prediction: 0 and 373 mm.",
        {"global_dice": True, "global_nsd": True, "sq_dsc": True, "sq_nsd": True, "rq": True},
        leaderboard_scores,
        TASKS_BRATS2026,
        leaderboard_parameters,
        missing={
            **dict.fromkeys(("sq_dsc", "sq_nsd", "rq", "pq_dsc", "precision", "recall", "global_dice"), 0.0),
            **dict.fromkeys(("global_nsd", "large_dsc", "large_nsd", "large_f1", "small_f1"), 0.0),
            **dict.fromkeys(("detection_f1", "detection_auc_f1"), 0.0),
            **dict.fromkeys(("sq_hd95_mm", "global_hd95_mm", "large_hd95_mm"), 373.0),
        },
    ),
    SMALL_LESIONS: MetricVersion(
        "Lesions up to a volume (pieces by 26 neighbours): found where a predicted voxel lies in them; a predicted one "
        "is false where it meets no reference lesion of any size. small_f1: 2 TP / (2 TP + FP + FN); small_dice: mean "
        "over small reference lesions of the Dice with the predicted lesions that meet them, whose voxels belong to "
        "the nearest lesion in mm, and 0 for missed ones. Over no lesions: not defined, left out of means.",
        {"small_f1": True, "small_dice": True, "small_sensitivity": True},
        small_lesion_scores,
    ),
    VESSELS: MetricVersion(
        "Dice, and clDice (Shit et al. 2021, arXiv:2003.07934) of centrelines thinned by Lee et al. 1994: the harmonic "
        "mean of the share of the prediction's centreline inside the reference (precision) and of the reference's "
        "inside the prediction (sensitivity). cldice counts voxels, as published; cldice_length weighs them by length "
        "in mm. Region empty in both: not defined, left out of means; in one: 0.",
        {"cldice": True, "dice": True},
        vessel_scores,
    ),
}


@dataclass(frozen=True)
class Chosen:
    """A metric version with the rules that a release is scored by.

    Attributes:
        version: name of the metric version.
        task: the rules.
        parameters: the rules as the result records them.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((20, 20, 20), dtype=np.uint8)
        >>> labels[4:12, 4:12, 4:12] = 3
        >>> regions = {"enhancing_tumor": (3,)}
        >>> chosen = choose("lesionwise-2023", release="brats2023-gli", regions=regions, missing_distance=374)
        >>> case = Case.cut(labels, labels, spacing=(1, 1, 1), regions=regions)
        >>> chosen.score(case)["enhancing_tumor"].scores["lw_dice"]
        1.0
    """

    version: str
    task: Task
    parameters: dict[str, Any]

    def score(self, case: Case) -> dict[str, RegionScores]:
        """Score every region of a case."""
        return METRICS[self.version].score(case, self.task)


def choose(
    metrics: str,
    *,
    release: str,
    regions: Mapping[str, Any],
    missing_distance: float,
    task: str | None = None,
    small_mm3: float | None = None,
) -> Chosen:
    """Return a metric version with the rules for a release.

    Args:
        metrics: a key of `METRICS`.
        release: name of the release; it chooses the task.
        regions: regions by name; their rules may differ.
        missing_distance: HD95 in mm of a region that only one side has, for metric versions without tasks.
        task: use the rules of this task instead of the release's.
        small_mm3: largest volume of a small lesion, for `small-lesions` alone; by default `SMALL_MM3`.

    Raises:
        InputError: the metric version is unknown, has no rules for the release or task, or knows no small lesions.

    Example:
        >>> choose("lesionwise-2024", release="brats2024-met", regions={}, missing_distance=374).parameters["task"]
        'MET'
    """
    if metrics not in METRICS:
        raise InputError(
            f"metrics={metrics!r} is not known: choose one of {', '.join(METRICS)}", entry="unknown-metrics"
        )
    if small_mm3 is not None and metrics != SMALL_LESIONS:
        raise InputError(f"metrics={metrics!r} has no limit for small lesions: leave it out, or take {SMALL_LESIONS}")
    tasks = METRICS[metrics].tasks
    if metrics == SMALL_LESIONS:
        limit = SMALL_MM3 if small_mm3 is None else float(small_mm3)
        return Chosen(metrics, Task(large_mm3=limit), {"small_up_to_mm3": limit})
    if metrics == VESSELS:
        return Chosen(metrics, Task(), {"neighbours": 26})
    if not tasks:
        return Chosen(metrics, Task(penalty=missing_distance), {"missing_distance_mm": missing_distance})
    name = task_name(tasks, release, task, metrics)
    return Chosen(metrics, tasks[name], METRICS[metrics].parameters(name, tasks[name], list(regions)))
