"""Scores two folders of segmentations against each other, case by case and region by region."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.summary import summarise
from bdfm_nnunet.evaluation.tables import table_paths, write_tables
from bdfm_nnunet.evaluation.volumes import check_same_grid, pair_folders, read_segmentation
from bdfm_nnunet.evaluation.voxelwise import BRATS_MISSING_DISTANCE, Mask, dice, hd95

Regions = Mapping[str, Sequence[int]]
Scores = dict[str, float]


def whole_region_scores(
    reference: Mask, prediction: Mask, *, spacing: Sequence[float], missing_distance: float
) -> Scores:
    """Dice and HD95 of a region taken as one piece, however many lesions it has."""
    return {
        "dice": dice(reference, prediction),
        "hd95_mm": hd95(reference, prediction, spacing=spacing, missing_distance=missing_distance),
    }


@dataclass(frozen=True)
class MetricVersion:
    """A named way to score a region; its name and `definition` stand in every result."""

    definition: str
    score: Callable[..., Scores]


METRICS: dict[str, MetricVersion] = {
    "whole": MetricVersion(
        "Dice and HD95 of the whole region. HD95: the larger of the two directed 95th percentiles of distances between "
        "surface voxels. Region empty in both: Dice 1, HD95 0; in one: Dice 0, HD95 the missing distance.",
        whole_region_scores,
    ),
}


@dataclass(frozen=True)
class _Task:
    case: str
    reference: Path
    prediction: Path
    regions: dict[str, tuple[int, ...]]
    metrics: str
    missing_distance: float


def _score_case(task: _Task) -> dict[str, Any]:
    allowed = {0}.union(*task.regions.values())
    reference = read_segmentation(task.reference, allowed=allowed)
    prediction = read_segmentation(task.prediction, allowed=allowed)
    check_same_grid(reference, prediction, task.prediction)
    voxel_mm3 = float(np.prod(reference.spacing))
    row: dict[str, Any] = {"case": task.case, "regions": {}}
    for name, values in task.regions.items():
        masks = [np.isin(segmentation.labels, values) for segmentation in (reference, prediction)]
        scores = METRICS[task.metrics].score(*masks, spacing=reference.spacing, missing_distance=task.missing_distance)
        volumes = [float(mask.sum()) * voxel_mm3 for mask in masks]
        row["regions"][name] = {**scores, "reference_mm3": volumes[0], "prediction_mm3": volumes[1]}
    return row


def _run(tasks: Sequence[_Task], workers: int) -> Iterator[dict[str, Any]]:
    if not workers:
        yield from map(_score_case, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_score_case, tasks)


def _summaries(rows: Sequence[Mapping[str, Any]], regions: Iterable[str], seed: int) -> dict[str, Any]:
    summaries: dict[str, Any] = {}
    for name in regions:
        scored = [row["regions"][name] for row in rows]
        measures = [measure for measure in scored[0] if not measure.endswith("_mm3")]
        summaries[name] = {m: summarise([s[m] for s in scored], seed=seed).as_dict() for m in measures}
    return summaries


def evaluate_folders(
    reference: Path | str,
    prediction: Path | str,
    *,
    regions: Regions,
    release: str,
    out: Path | str | None = None,
    metrics: str = "whole",
    missing_distance: float = BRATS_MISSING_DISTANCE,
    workers: int = 0,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Scores every case of `reference` by the file of the same name in `prediction`.

    Empty regions: in both, Dice is 1 and HD95 0; in one of the two, Dice is 0 and HD95 is `missing_distance`. Such
    cases count in the means like all others.

    Args:
        reference: folder of reference segmentations, `CASE.nii.gz`.
        prediction: folder with exactly the same cases.
        regions: region name -> label values it consists of. Values outside all regions (but 0) are refused.
        release: name of the release, for the record.
        out: JSON file to write; a CSV file with one line per case and region is written beside it.
        metrics: version of the metric, a key of `METRICS`.
        missing_distance: HD95 in mm of a region that only one side has; the default is the BraTS organisers' 374.
        workers: processes; 0 works in this one.
        seed: seed of the bootstrap intervals.
        progress: whether a progress bar is shown; by default on a terminal only.

    Returns:
        What the JSON file holds: "metrics", "definition", "summary" per region and measure (mean, 95 % bootstrap
        interval over cases, median), "cases".

    Raises:
        InputError: a missing or extra prediction, another grid, an unknown label value, an unreadable file.
    """
    if metrics not in METRICS:
        raise InputError(f"metrics={metrics!r} is not known: choose one of {', '.join(METRICS)}")
    if out is not None:
        table_paths(Path(out))
    wanted = {name: tuple(int(value) for value in values) for name, values in regions.items()}
    pairs = pair_folders(Path(reference), Path(prediction))
    tasks = [_Task(case, a, b, wanted, metrics, missing_distance) for case, a, b in pairs]
    rows = list(
        tqdm(
            _run(tasks, workers),
            total=len(tasks),
            desc="evaluate",
            unit="case",
            disable=None if progress is None else not progress,
        )
    )
    result = {
        "release": release,
        "metrics": metrics,
        "definition": METRICS[metrics].definition,
        "missing_distance_mm": missing_distance,
        "regions": {name: list(values) for name, values in wanted.items()},
        "interval": "95 % percentile bootstrap of the mean over cases",
        "seed": seed,
        "summary": _summaries(rows, wanted, seed),
        "cases": rows,
    }
    if out is not None:
        write_tables(Path(out), result)
    return result
