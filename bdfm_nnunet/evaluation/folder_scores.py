"""Scores of a folder of predictions against a folder of references, by case and region."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.leaderboards import board_means
from bdfm_nnunet.evaluation.metric_versions import METRICS, Chosen, choose
from bdfm_nnunet.evaluation.pairing import (
    Pairs,
    check_all_known,
    check_all_predicted,
    check_same_grid,
    pair_cases,
    read_segmentation,
)
from bdfm_nnunet.evaluation.score_provenance import ScoreProvenance
from bdfm_nnunet.evaluation.score_summary import INTERVAL, none_for_nan, summaries_of
from bdfm_nnunet.evaluation.score_tables import table_paths, write_tables
from bdfm_nnunet.evaluation.voxelwise import BRATS_MISSING_DISTANCE
from bdfm_nnunet.results import RunResult, versions_of
from bdfm_nnunet.worker_pools import run_in_processes

logger = logging.getLogger(__name__)

_MOST_NOTES = 5
Regions = Mapping[str, Sequence[int]]
Scores = dict[str, float]


def score_case(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    *,
    spacing: Sequence[float],
    regions: Regions,
    release: str,
    metrics: str = "whole",
    task: str | None = None,
    missing_distance: float = BRATS_MISSING_DISTANCE,
    small_mm3: float | None = None,
) -> dict[str, Scores]:
    """Score one case given as arrays.

    Args:
        reference: labels (x, y, z).
        prediction: labels of the same shape.
        spacing: voxel size in mm along each axis.
        regions: region name -> its label values.
        release: name of the release; it chooses the rules.
        metrics: metric version, a key of `METRICS`; its `measures` are the scores that decide.
        task: use the rules of this task instead of the release's.
        missing_distance: as in `evaluate_folders`.
        small_mm3: as in `evaluate_folders`.

    Returns:
        Region name -> name of a score -> its value; NaN if the score is undefined.

    Raises:
        InputError: the metric version is unknown or has no rules for the release.

    Example:
        >>> import numpy as np
        >>> from bdfm_nnunet.evaluation import score_case
        >>> reference, prediction = np.zeros((2, 20, 20, 20), dtype=np.uint8)
        >>> reference[4:12, 4:12, 4:12] = prediction[5:13, 4:12, 4:12] = 3  # shifted by a voxel
        >>> regions = {"enhancing_tumor": (3,)}
        >>> score_case(reference, prediction, spacing=(1, 1, 1), regions=regions, release="brats2023-gli")
        {'enhancing_tumor': {'dice': 0.875, 'hd95_mm': 1.0, 'reference_mm3': 512.0, 'prediction_mm3': 512.0}}
    """
    chosen = choose(
        metrics, release=release, regions=regions, missing_distance=missing_distance, task=task, small_mm3=small_mm3
    )
    case = Case.cut(reference, prediction, spacing=spacing, regions=regions)
    return {region: _with_volumes(case, region, scored.scores) for region, scored in chosen.score(case).items()}


def _with_volumes(case: Case, region: str, scores: Mapping[str, float]) -> Scores:
    volumes = [float(mask.sum()) * case.voxel_mm3 for mask in case.masks(case.regions[region])]
    return {**scores, "reference_mm3": volumes[0], "prediction_mm3": volumes[1]}


@dataclass(frozen=True)
class _Job:
    case: str
    reference: Path
    prediction: Path | None
    regions: dict[str, tuple[int, ...]]
    chosen: Chosen
    ignore: int | None


def _score(job: _Job) -> dict[str, Any]:
    allowed = {0}.union(*job.regions.values())
    reference = read_segmentation(job.reference, allowed=allowed if job.ignore is None else allowed | {job.ignore})
    labels, notes = reference.labels, [reference.volume.note]
    if job.prediction is None:
        prediction = np.zeros_like(labels)
    else:
        predicted = read_segmentation(job.prediction, allowed=allowed)
        check_same_grid(reference, predicted, job.prediction)
        prediction = predicted.labels
        notes.append(predicted.volume.note)
    labels, prediction = without_ignored(labels, prediction, job.ignore)
    case = Case.cut(labels, prediction, spacing=reference.spacing, regions=job.regions)
    found = job.chosen.score(case)
    if job.prediction is None:
        absent = METRICS[job.chosen.version].missing or {}
        found = {
            region: RegionScores({name: absent.get(name, value) for name, value in scored.scores.items()})
            for region, scored in found.items()
        }
    row = {region: _with_volumes(case, region, scored.scores) for region, scored in found.items()}
    lesions = {region: scored.lesions for region, scored in found.items() if scored.lesions}
    notes = [note for note in notes if note]
    return {
        "case": job.case,
        "regions": row,
        **({"lesions": lesions} if lesions else {}),
        **({"notes": notes} if notes else {}),
    }


def without_ignored(
    reference: NDArray[Any], prediction: NDArray[Any], ignore: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both label maps with background where the reference has the label to ignore, as nnU-Net scores them.

    Example:
        >>> without_ignored(np.array([1, 0, 9]), np.array([1, 1, 1]), ignore=9)
        (array([1, 0, 0]), array([1, 1, 0]))
    """
    ignored = reference == ignore if ignore is not None else np.zeros((), dtype=bool)
    if not ignored.any():
        return reference, prediction
    return np.where(ignored, reference.dtype.type(0), reference), np.where(
        ignored, prediction.dtype.type(0), prediction
    )


def evaluate_folders(
    reference: Path | str,
    prediction: Path | str,
    *,
    regions: Regions,
    release: str,
    out: Path | str | None = None,
    metrics: str = "whole",
    task: str | None = None,
    ignore: int | None = None,
    allow_missing: bool = False,
    only_predicted: bool = False,
    missing_distance: float = BRATS_MISSING_DISTANCE,
    small_mm3: float | None = None,
    workers: int = 0,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Score every case of `reference` by the file of the same name in `prediction`.

    Each metric version defines the scores of an empty region. With `whole`, Dice is 1 and HD95 is 0 if the region is
    empty in both files; Dice is 0 and HD95 is `missing_distance` if it is empty in one of them. These cases count in
    the means like all others. Undefined scores (None) are left out of the means and counted.

    Args:
        reference: folder of reference segmentations, `CASE.nii.gz`.
        prediction: folder with exactly the same cases.
        regions: region name -> its label values. Values outside all regions, except 0, are refused.
        release: name of the release; it is recorded and chooses the rules of the metric version.
        out: JSON file to write; a CSV file with one line per case and region is written beside it.
        metrics: metric version, a key of `METRICS`.
        task: use the rules of this task (GLI, MEN, MEN-RT, MET, PED, SSA) instead of the release's.
        ignore: label value of reference voxels that are not scored, on either side.
        allow_missing: score a case without a prediction as the metric version prescribes instead of refusing it.
        only_predicted: score the cases that are in both folders; the result lists the others.
        missing_distance: HD95 in mm of a region that only one side has, for `whole`; the default is the BraTS
            organisers' 374.
        small_mm3: largest volume of a small lesion, for `small-lesions`; by default 100.
        workers: number of processes; 0 or 1 works in this process.
        seed: seed of the bootstrap intervals.
        progress: whether to show a progress bar; by default only on a terminal.

    Returns:
        The content of the JSON file, a `bdfm_nnunet.results.RunResult` as plain types. Its scores are "metrics",
        "definition", "parameters", "summary" per region and measure (mean, 95 % bootstrap interval over cases, median,
        number of cases and of undefined scores), "cases" with their scores, their lesions if the metric version has
        them and notes on their headers if there are any, the "missing" cases that were scored without a prediction,
        and the cases "not_scored".

    Raises:
        InputError: a prediction is missing or has no reference, lies on another grid, holds an unknown label value or
            cannot be read, or the metric version has no rules for the release.

    Example:
        >>> from bdfm_nnunet.evaluation import evaluate_folders
        >>> regions = {"whole_tumor": (1, 2, 3), "enhancing_tumor": (3,)}
        >>> result = evaluate_folders("labels", "predictions", regions=regions, release="brats2023-gli")
        >>> result["cases"][1]["case"], result["cases"][1]["regions"]["whole_tumor"]["dice"]
        ('BraTS-GLI-00002-000', 0.875)
        >>> round(result["summary"]["enhancing_tumor"]["dice"]["mean"], 3)
        0.933
    """
    origin = None
    if out is not None:
        origin = ScoreProvenance(Path(reference), Path(prediction), table_paths(Path(out))[0].parent)
    wanted = {name: tuple(int(value) for value in values) for name, values in regions.items()}
    chosen = choose(
        metrics, release=release, regions=wanted, missing_distance=missing_distance, task=task, small_mm3=small_mm3
    )
    pairs = _pairs(Path(reference), Path(prediction), metrics, allow_missing, only_predicted)
    jobs = [_Job(case, here, there, wanted, chosen, ignore) for case, here, there in _to_score(pairs, allow_missing)]
    rows = _score_all(jobs, workers, progress)
    scores: dict[str, Any] = none_for_nan(
        {
            "release": release,
            **_told_of(chosen, wanted, seed),
            **_left_out(pairs, jobs, only_predicted),
            **_summed_up(rows, wanted, chosen, seed),
            "cases": rows,
        }
    )
    settings = {
        "reference": str(reference),
        "prediction": str(prediction),
        "task": task,
        "ignore": ignore,
        "allow_missing": allow_missing,
        "only_predicted": only_predicted,
    }
    result = RunResult(kind="evaluation", settings=settings, scores=scores, versions=versions_of("numpy", "scipy"))
    if out is not None and origin is not None:
        read = [job.reference for job in jobs], [job.prediction for job in jobs if job.prediction is not None]
        provenance, exposure = origin.of(*read, seed=seed)
        result = write_tables(Path(out), replace(result, provenance=provenance, exposure=exposure))
    return result.as_dict()


def _summed_up(rows: Sequence[Mapping[str, Any]], regions: Regions, chosen: Chosen, seed: int) -> dict[str, Any]:
    """Return the summary of every region, and the figures of the leaderboards that the version has."""
    summary = summaries_of(rows, regions, seed)
    boards = chosen.parameters.get("leaderboards")
    return {"summary": summary, **({"leaderboards": board_means(boards, summary)} if boards else {})}


def _score_all(jobs: Sequence[_Job], workers: int, progress: bool | None) -> list[dict[str, Any]]:
    """Return the scores of every case, in the order of `jobs`."""
    hidden = None if progress is None else not progress
    scored = run_in_processes(jobs, _score, workers=workers, ordered=True)
    rows = list(tqdm(scored, total=len(jobs), desc="evaluate", unit="case", disable=hidden))
    _tell_notes(rows)
    return rows


def _told_of(chosen: Chosen, regions: Regions, seed: int) -> dict[str, Any]:
    """Return how the scores were computed, for the record."""
    return {
        "metrics": chosen.version,
        "definition": METRICS[chosen.version].definition,
        "parameters": chosen.parameters,
        "regions": {name: list(values) for name, values in regions.items()},
        "interval": INTERVAL,
        "seed": seed,
    }


def _left_out(pairs: Pairs, jobs: Sequence[_Job], only_predicted: bool) -> dict[str, Any]:
    """Return the cases that one of the folders lacks: those scored without a prediction, and those not scored."""
    return {
        "missing": [job.case for job in jobs if job.prediction is None],
        "not_scored": {
            "without_prediction": list(pairs.unpredicted) if only_predicted else [],
            "without_reference": list(pairs.unknown),
        },
    }


def _pairs(reference: Path, prediction: Path, metrics: str, allow_missing: bool, only_predicted: bool) -> Pairs:
    if allow_missing and only_predicted:
        raise InputError("missing predictions are either scored or left out: take --allow-missing or --only-predicted")
    if allow_missing and METRICS[metrics].missing is None:
        raise InputError(
            f"metrics={metrics!r} has no score for a case without prediction: predict all cases, or score those that "
            "are there with --only-predicted"
        )
    pairs = pair_cases(reference, prediction)
    if not only_predicted:
        check_all_known(pairs, reference)
        if not allow_missing:
            check_all_predicted(pairs, prediction)
    elif not pairs.both:
        raise InputError(f"{reference} and {prediction} have no case in common: name the folders of the same cases")
    return pairs


def _to_score(pairs: Pairs, allow_missing: bool) -> list[tuple[str, Path, Path | None]]:
    missing = pairs.unpredicted.items() if allow_missing else ()
    return sorted([*pairs.both, *((case, path, None) for case, path in missing)], key=lambda found: found[1])


def _tell_notes(rows: Sequence[Mapping[str, Any]]) -> None:
    notes = [note for row in rows for note in row.get("notes", ())]
    for note in notes[:_MOST_NOTES]:
        logger.warning("%s", note)
    if len(notes) > _MOST_NOTES:
        logger.warning("... and %d more such notes, see the result", len(notes) - _MOST_NOTES)
