"""Lesion-wise scores of one case against a plain transcription of their rules: three regions, dozens of lesions.

The transcription does to the whole volume, lesion by lesion, what the rules say: mask it, dilate it, look for the
predicted lesions in it. As in the organisers' code, the distance transforms alone are cut to the box of the two masks.
Both arms must give the same numbers.

    python benchmarks/metrics.py [--lesions 24] [--rounds 1] [--release brats2024-met] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.evaluation import score_case
from bdfm_nnunet.evaluation.surfaces import surfel_areas
from bdfm_nnunet.evaluation.tasks import TASKS_2023, TASKS_2024, Task, task_name, tissue_of

REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
NEIGHBOURS = ndimage.generate_binary_structure(3, 2)
KERNEL = 2 ** np.arange(8).reshape(2, 2, 2)[::-1, ::-1, ::-1]
Volume = NDArray[Any]


def merged(mask: Volume, iterations: int) -> Volume:
    """Pieces numbered so that those whose dilations touch share a number."""
    grown = ndimage.binary_dilation(mask, NEIGHBOURS, iterations=iterations)
    return np.where(mask, cc3d.connected_components(grown, connectivity=26), 0)


def prepared(mask: Volume, task: Task, tissue: str, *, predicted: bool, mm3: float) -> Volume:
    """Numbered lesions of one side."""
    rule = task.rule_for(tissue)
    if predicted and not task.joins_prediction:
        return np.asarray(cc3d.connected_components(mask, connectivity=26))
    lesions = merged(mask, rule.dilation)
    for number in np.unique(lesions)[1:]:
        limit = rule.threshold / mm3 if task.threshold_in_mm3 else rule.threshold
        if predicted and (lesions == number).sum() <= limit:
            lesions[lesions == number] = 0
    return lesions


def joined(lesions: Volume, partner: Volume) -> Volume:
    """Lesions that touch the same lesion of the partner, with one number."""
    pairs = []
    for number in np.unique(lesions)[1:]:
        near = np.unique(partner[ndimage.binary_dilation(lesions == number, NEIGHBOURS)])
        pairs += [(int(number), int(other)) for other in near if other]
    if len(pairs) < 2:
        return lesions
    result = lesions.copy()
    new = {other: int(lesions.max()) + 1 + place for place, other in enumerate(dict.fromkeys(o for _, o in pairs))}
    for number in dict.fromkeys(number for number, _ in pairs):
        first = next(other for n, other in pairs if n == number)
        result[lesions == number] = new[first]
    return result


def hd95(first: Volume, second: Volume, spacing: tuple[float, ...]) -> float:
    """Of surface elements weighted by area, by distance transforms; infinite where one mask is empty."""
    if not (first.any() and second.any()):
        return float("inf")
    box = ndimage.find_objects((first | second).astype(np.uint8))[0]
    padded = [np.pad(mask[box], ((0, 1),) * 3).astype(int) for mask in (first, second)]
    codes = [ndimage.correlate(mask, KERNEL, mode="constant", cval=0) for mask in padded]
    borders = [(code > 0) & (code < 255) for code in codes]
    reached = []
    for here, there in ((0, 1), (1, 0)):
        distances = ndimage.distance_transform_edt(~borders[there], sampling=spacing)[borders[here]]
        areas = surfel_areas(spacing)[codes[here][borders[here]]]
        order = np.argsort(distances, kind="stable")
        share = np.cumsum(areas[order]) / areas.sum()
        reached.append(distances[order][min(np.searchsorted(share, 0.95), len(order) - 1)])
    return float(max(reached))


def plain(
    reference: Volume, prediction: Volume, spacing: tuple[float, ...], regions: dict[str, Any], task: Task
) -> Any:
    """(Dice, HD95) of every region."""
    mm3, penalty = float(np.prod(spacing)), task.penalty_for(reference.shape)
    values = {tissue_of(name): tuple(labels) for name, labels in regions.items()}
    values.setdefault("NETC", tuple(set(values.get("TC", ())) - set(values.get("ET", ()))))
    result = {}
    for name in regions:
        tissue = tissue_of(name)
        sides = []
        for labels, predicted in ((reference, False), (prediction, True)):
            lesions = prepared(np.isin(labels, values[tissue]), task, tissue, predicted=predicted, mm3=mm3)
            for partner in task.partners.get(tissue, ()):
                if partner in values:
                    other = np.isin(labels, values[partner])
                    lesions = joined(lesions, prepared(other, task, partner, predicted=predicted, mm3=mm3))
            sides.append(lesions)
        result[name] = _mean(*sides, task, tissue, spacing, penalty)
    return result


def _mean(
    lesions: Volume, found: Volume, task: Task, tissue: str, spacing: tuple[float, ...], penalty: float
) -> tuple[float, float]:
    rule, rows, hit = task.rule_for(tissue), [], set()
    for number in np.unique(lesions)[1:]:
        lesion = lesions == number
        near = set(np.unique(found[ndimage.binary_dilation(lesion, NEIGHBOURS, iterations=rule.dilation)])) - {0}
        hit |= near
        partners = np.isin(found, list(near))
        if lesion.sum() * np.prod(spacing) > rule.threshold:
            overlap = 2 * (lesion & partners).sum() / (lesion.sum() + partners.sum())
            rows.append((overlap, min(hd95(lesion, partners, spacing), np.inf)))
    false = len(set(np.unique(found)) - hit - {0}) if task.false_positives_count else 0
    total = len(rows) + false
    if not total:
        return 1.0, 0.0
    distances = [penalty if np.isinf(distance) else distance for _, distance in rows]
    return sum(row[0] for row in rows) / total, (sum(distances) + false * penalty) / total


def scene(lesions: int, shape: tuple[int, int, int] = (240, 240, 155)) -> tuple[Volume, Volume]:
    """A reference with shells of oedema, enhancing and necrotic tissue; the prediction lies one voxel off."""
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, dtype=np.int16)
    middle, reach = np.array(shape) // 2, np.array(shape) // 3
    for number in range(lesions):
        centre = middle + rng.integers(-reach, reach) * min(number, 1)
        radius = 30.0 if number == 0 else rng.uniform(3, 8)
        box = tuple(slice(max(0, c - 31), c + 32) for c in centre)
        grid = np.meshgrid(*(np.arange(shape[a])[box[a]] - centre[a] for a in range(3)), indexing="ij")
        distance = np.sqrt(sum(np.square(axis) for axis in grid))
        for value, share in ((2, 1.0), (3, 0.7), (1, 0.35)):
            labels[box][distance < radius * share] = value
    return labels, np.roll(labels, 1, axis=0)


def main() -> None:
    """Runs both arms in turn, compares their numbers and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--release", default="brats2024-met")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    reference, prediction = scene(settings.lesions)
    spacing, times = (1.0, 1.0, 1.0), {}
    for metrics, tasks in (("lesionwise-2023", TASKS_2023), ("lesionwise-2024", TASKS_2024)):
        task = tasks[task_name(tasks, settings.release, None, metrics)]
        rounds = []
        for _ in range(settings.rounds):
            start = time.perf_counter()
            ours = score_case(
                reference, prediction, spacing=spacing, regions=REGIONS, release=settings.release, metrics=metrics
            )
            middle = time.perf_counter()
            slow = plain(reference, prediction, spacing, REGIONS, task)
            rounds.append((middle - start, time.perf_counter() - middle))
            for region, expected in slow.items():
                np.testing.assert_allclose([ours[region]["lw_dice"], ours[region]["lw_hd95_mm"]], expected, rtol=1e-9)
        ratios = [b / a for a, b in rounds]
        times[metrics] = {
            "seconds": {
                "score_case": statistics.median(a for a, _ in rounds),
                "plain": statistics.median(b for _, b in rounds),
            },
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    result = {
        "release": settings.release,
        "shape": reference.shape,
        "lesions": settings.lesions,
        "regions": len(REGIONS),
        "rounds": settings.rounds,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "versions": times,
    }
    print(json.dumps(result, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
