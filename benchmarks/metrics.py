"""Lesion-wise scores of one case against a plain transcription of their rules: three regions, dozens of lesions.

The transcription does to the whole volume of 240 x 240 x 155 voxels, lesion by lesion, what the rules say: mask it,
dilate it, look for the predicted lesions in it. As in the organisers' code, the distance transforms alone are cut to
the box of the two masks. Both arms must give the same numbers.

    python benchmarks/metrics.py [--quick] [--lesions 24] [--rounds 3] [--release brats2024-met]
"""

import argparse
from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.evaluation import score_case
from bdfm_nnunet.evaluation.challenge_rules import TASKS_2023, TASKS_2024, Task, task_name, tissue_of
from bdfm_nnunet.evaluation.surfaces import surfel_areas
from harness import Result, Table, Times, alternate, numbers, options, parse, prose

REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
NEIGHBOURS = ndimage.generate_binary_structure(3, 2)
SPACING = (1.0, 1.0, 1.0)
PACKAGES = ("numpy", "scipy", "connected-components-3d")
OURS, PLAIN = "score_case", "transcription"
KERNEL = 2 ** np.arange(8).reshape(2, 2, 2)[::-1, ::-1, ::-1]
Volume = NDArray[Any]


def merged(mask: Volume, iterations: int) -> Volume:
    """Label pieces so that those whose dilations touch share a number."""
    grown = ndimage.binary_dilation(mask, NEIGHBOURS, iterations=iterations)
    return np.where(mask, cc3d.connected_components(grown, connectivity=26), 0)


def prepared(mask: Volume, task: Task, tissue: str, *, predicted: bool, mm3: float) -> Volume:
    """Label the lesions of one side."""
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
    """Return the lesions that touch the same lesion of the partner, with one number."""
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
    """Compute HD95 of surface elements weighted by area, by distance transforms; infinite if one mask is empty."""
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
    """Compute (Dice, HD95) of every region."""
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


def scene(lesions: int, shape: Sequence[int]) -> tuple[Volume, Volume]:
    """Return a reference with shells of oedema, enhancing and necrotic tissue, and a prediction one voxel off."""
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


Scores = dict[str, tuple[float, float]]


def compare(version: str, task: Task, images: tuple[Volume, Volume], settings: argparse.Namespace) -> Times:
    """Time both arms in turn and check that they agree."""
    scores: dict[str, Scores] = {}

    def ours() -> None:
        found = score_case(*images, spacing=SPACING, regions=REGIONS, release=settings.release, metrics=version)
        scores[OURS] = {region: (found[region]["lw_dice"], found[region]["lw_hd95_mm"]) for region in REGIONS}

    def transcription() -> None:
        scores[PLAIN] = plain(*images, SPACING, REGIONS, task)

    times = alternate({OURS: ours, PLAIN: transcription}, rounds=settings.rounds, warmup=0)
    for region in REGIONS:
        np.testing.assert_allclose(scores[OURS][region], scores[PLAIN][region], rtol=1e-9)
    return times


def main() -> None:
    """Compare both arms by the rules of both years and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--lesions", type=int, default=24)
    parser.add_argument("--size", type=numbers, default=[240, 240, 155], help="voxels (default: 240,240,155)")
    parser.add_argument("--release", default="brats2024-met")
    settings = parse(parser, quick={"lesions": 6, "rounds": 1})
    images = scene(settings.lesions, settings.size)
    table = Table("One case", ["version", f"{OURS}, s", f"{PLAIN}, s", "times faster"])
    result = Result("Lesion-wise scores", prose(__doc__), vars(settings), PACKAGES, tables=[table])
    for version, tasks in (("lesionwise-2023", TASKS_2023), ("lesionwise-2024", TASKS_2024)):
        task = tasks[task_name(tasks, settings.release, None, version)]
        times = compare(version, task, images, settings)
        table.rows.append([version, str(times.of(OURS)), str(times.of(PLAIN)), str(times.speedup(OURS, PLAIN))])
        result.raw[version] = times
    result.write(settings.json)


if __name__ == "__main__":
    main()
