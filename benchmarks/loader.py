"""Random crops for label-free pre-training: our loader beside nnU-Net's on the same folder of preprocessed cases.

The cases are made up on a real brain template, full-size (240 x 240 x 155 voxels before nnU-Net crops them to the
head), four channels, converted with brain masks as labels, planned and preprocessed by `bdfm plan`; the files are in
the memory of the machine. A sample of ours is one channel of a crop of 96 voxels an axis; nnU-Net's loader, run as its
trainer runs it, gives the same crop with all four channels and the labels. Like for like are two pairs: ours with all
four channels beside nnU-Net's, and ours beside nnU-Net's on a folder in which every channel is a case of its own, as
`bdfm cohort` makes it (nnU-Net still cuts the labels). The augmented arms do what training does: ours mirrors, nnU-Net
reads a larger patch for its rotation and scaling and applies all its transforms.

The floor is decompressing 96 x 96 x 96 values at the rate at which blosc2 decompresses whole cases in one process; a
random crop must decompress every block that it touches, about twice its voxels. Workers share the cores
of the machine: more workers than cores cannot help.

    python benchmarks/loader.py [--quick] [--rounds 3] [--seconds 0.8] [--workers 0,1,2,4] [--patch 96] [--folder DIR]
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from matplotlib.figure import Figure
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from bdfm_nnunet.data.augmentation import RandomAffine, mirrored
from bdfm_nnunet.data.batch_streams import batches
from bdfm_nnunet.data.crops import UnlabelledCrops, open_images
from bdfm_nnunet.reports.figures import save_figure
from harness import FIGURES, Result, Spread, Table, Times, numbers, options, parse, prose

BATCH = 2
GOAL = 3.0
OURS, OURS_ALL = "ours, one channel", "ours, four channels"
OURS_MIRRORED, OURS_SPATIAL = "ours, one channel, mirrored", "ours, one channel, turned and scaled too"
THEIRS, THEIRS_AUGMENTED = "nnU-Net, four channels", "nnU-Net, four channels, augmented"
SINGLE = "nnU-Net, one-channel cases"
COMPARED = (
    (OURS, SINGLE, "like for like"),
    (OURS_ALL, THEIRS, "like for like"),
    (OURS, THEIRS, "not alike: one channel, four with labels"),
    (OURS_MIRRORED, THEIRS_AUGMENTED, "as each trains"),
)
"""Arm, reference, and what is compared, for the rows of the goals."""

Loader = Callable[[int], contextlib.AbstractContextManager[Iterator[Any]]]
"""Starts endless batches prepared by so many workers."""

# ----------------------------------------------------------------------------------------------------- the folder


def prepare(root: Path, *, cases: int, size: Sequence[int]) -> Path:
    """Make cases as `bdfm plan` leaves them, and return the folder of the data set in nnUNet_preprocessed."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(root / variable)
        (root / variable).mkdir(parents=True, exist_ok=True)
    from bdfm_nnunet.data.demo import make_cohort
    from bdfm_nnunet.dataset_conversion import convert
    from bdfm_nnunet.plans import plan_dataset

    tree = root / "cohort"
    if not (tree / "cohort.json").is_file():
        make_cohort(tree, cases=cases, seed=0, spacing=[240 / size[0], 240 / size[1], 155 / size[2]], shape=size)
        convert("brats2023-gli", tree, dataset_id=501, unlabelled=True)
    plans = plan_dataset(501, network="swin", workers=1)
    single = plans.parent / "one_channel_cases"
    if not single.exists():
        images = plans.parent / "nnUNetPlans_3d_fullres"
        split_channels(images, single)
    return plans.parent


def split_channels(folder: Path, target: Path) -> None:
    """Write every channel as a separate case, stored as nnU-Net stored it."""
    partial = target.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    dataset = nnUNetDatasetBlosc2(str(folder))
    for key in dataset.identifiers:
        images = open_images(dataset, key)
        for channel in range(images.shape[0]):
            path = partial / f"{key}_{channel}.b2nd"
            stored = {"chunks": images.chunks, "blocks": images.blocks}
            blosc2.asarray(images[channel : channel + 1], urlpath=str(path), cparams=images.cparams, **stored)
            for ending in ("_seg.b2nd", ".pkl"):
                os.link(folder / f"{key}{ending}", partial / f"{key}_{channel}{ending}")
    partial.rename(target)


def linked(folder: Path, target: Path, cases: int) -> nnUNetDatasetBlosc2:
    """Return a folder of so many cases that are links to those of another."""
    target.mkdir()
    keys = nnUNetDatasetBlosc2(str(folder)).identifiers
    for number, key in zip(range(cases), itertools.cycle(keys)):
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            os.link(folder / f"{key}{ending}", target / f"case_{number:05}{ending}")
    return nnUNetDatasetBlosc2(str(target))


# ------------------------------------------------------------------------------------------------------- the arms


def ours(dataset: Any, patch: int, **settings: Any) -> Loader:
    """Yield batches as the pre-training trainer gets them."""
    source = UnlabelledCrops(dataset, batch_size=BATCH, patch_size=(patch,) * 3, **settings)

    @contextlib.contextmanager
    def start(workers: int) -> Iterator[Iterator[Any]]:
        loaded = batches(source, 0, numbers=range(10**9), workers=workers)
        yield ({"data": mirrored(batch["data"], batch["flips"])} for batch in loaded) if source.mirror else loaded
        loaded.close()  # type: ignore[attr-defined]

    return start


def theirs(dataset: Any, patch: int, plans: Path, *, augmented: bool) -> Loader:
    """Yield batches as nnU-Net's trainer gets them."""
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    shape, read, transforms, angles = (patch,) * 3, (patch,) * 3, None, (-np.pi / 6, np.pi / 6)
    if augmented:
        read = get_patch_size(shape, angles, angles, angles, (0.85, 1.25))
        mask = [False] * open_images(dataset, dataset.identifiers[0]).shape[0]
        transforms = nnUNetTrainer.get_training_transforms(shape, angles, None, (0, 1, 2), False, mask)
    labels = PlansManager(str(plans)).get_label_manager(json.loads((plans.parent / "dataset.json").read_text()))
    loader = nnUNetDataLoader(
        dataset, BATCH, read, shape, labels, oversample_foreground_percent=0.33, transforms=transforms
    )

    @contextlib.contextmanager
    def start(workers: int) -> Iterator[Iterator[Any]]:
        if not workers:
            yield SingleThreadedAugmenter(loader, None)
            return
        cached = max(6, workers // 2)
        augmenter = NonDetMultiThreadedAugmenter(loader, None, workers, num_cached=cached, wait_time=0.002)
        yield augmenter
        augmenter._finish()

    return start


def seconds_per_crop(loader: Loader, workers: int, *, seconds: float) -> float:
    """Time a loader in its steady state: what workers prepared before the clock started is used up first.

    Every voxel is read once here, as a copy to a device would do.
    """
    with loader(workers) as loaded:
        for _ in range(6 + 3 * workers if workers else 2):
            next(loaded)
        start, crops = time.perf_counter(), 0
        while time.perf_counter() < start + seconds or crops < 4 * BATCH:
            next(loaded)["data"].sum()
            crops += BATCH
        return (time.perf_counter() - start) / crops


def compare(arms: Mapping[str, Loader], workers: int, *, rounds: int, seconds: float) -> Times:
    """Time a crop of every arm; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, loader in arms.items():
            with contextlib.redirect_stdout(io.StringIO()):
                found[name].append(seconds_per_crop(loader, workers, seconds=seconds))
    return Times(found)


# --------------------------------------------------------------------------------------------------- measurements


def decompression_rate(dataset: Any) -> float:
    """Measure the bytes/s of the images of a case, at best of some passes over all of its chunks in one thread."""
    images, best = open_images(dataset, dataset.identifiers[0]), 0.0
    into = np.empty(images.schunk.chunksize, dtype=np.uint8)
    for _ in range(5):
        start = time.perf_counter()
        for number in range(images.schunk.nchunks):
            images.schunk.decompress_chunk(number, dst=into)
        best = max(best, 4 * images.size / (time.perf_counter() - start))
    return best


def touched(dataset: Any, patch: int) -> float:
    """Return the voxels in all blocks that a random crop touches, on average, relative to those of the crop."""
    images, share = open_images(dataset, dataset.identifiers[0]), 1.0
    for size, block in zip(images.shape[1:], images.blocks[1:]):
        starts = np.arange(max(size - patch, 0) + 1)
        blocks = (starts + min(patch, size) - 1) // block - starts // block + 1
        share *= float(blocks.mean()) * block / patch
    return share


def memory_of_a_worker(dataset: Any, patch: int, crops: int) -> tuple[list[int], list[float], list[float]]:
    """Return the crops that a worker process has read so far, and its resident and private MiB at those times."""
    source = UnlabelledCrops(dataset, batch_size=BATCH, patch_size=(patch,) * 3, mirror=True)
    loaded = batches(source, 0, numbers=range(crops // BATCH), workers=1)
    (worker,) = multiprocessing.active_children()
    usage = Path(f"/proc/{worker.pid}/smaps_rollup")
    counts, resident, private = [], [], []
    for number, _ in enumerate(loaded, 1):
        if number % max(1, crops // BATCH // 100) == 0 and number * BATCH + 20 < crops:
            kibibytes = {name: int(value) for name, value in re.findall(r"(\w+): +(\d+) kB", usage.read_text())}
            counts.append(number * BATCH)
            resident.append(kibibytes["Rss"] / 1024)
            private.append((kibibytes["Private_Clean"] + kibibytes["Private_Dirty"]) / 1024)
    return counts, resident, private


# ------------------------------------------------------------------------------------------------------ the result


def rates_table(title: str, by_workers: Mapping[int, Times], reference: str, note: str = "") -> Table:
    """Return a table of crops/s and how many times faster than the reference they are."""
    table = Table(title, ["workers", "arm", "crops/s", f"rate relative to {reference}"], note=note)
    for workers, times in by_workers.items():
        for arm in times.seconds:
            rates = Spread.of([1 / second for second in times.seconds[arm]])
            faster = "1" if arm == reference else str(times.speedup(arm, reference))
            table.rows.append([str(workers), arm, str(rates), faster])
    return table


def curve(series: Mapping[str, tuple[list[int], list[float]]], xlabel: str, ylabel: str, *, log: bool) -> Figure:
    """Draw lines over numbers, from zero upwards."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o" if len(x) < 20 else "", label=name)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(value) for value in x])
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def measure(root: Path, settings: argparse.Namespace) -> Result:
    """Measure all figures."""
    prepared = prepare(root, cases=settings.cases, size=settings.size)
    plans, patch = prepared / "BDFMPlans.json", settings.patch
    folder = prepared / "nnUNetPlans_3d_fullres"
    dataset, single = (nnUNetDatasetBlosc2(str(path)) for path in (folder, prepared / "one_channel_cases"))
    result = Result("Loading crops", prose(__doc__), vars(settings), ("torch", "numpy", "blosc2", "nnunetv2"))
    groups = {
        "As it is read, without augmentation": (
            {
                OURS: ours(dataset, patch),
                OURS_ALL: ours(dataset, patch, single_channel=False),
                SINGLE: theirs(single, patch, plans, augmented=False),
                THEIRS: theirs(dataset, patch, plans, augmented=False),
            },
            THEIRS,
        ),
        "As training gets it, with augmentation": (
            {
                OURS_MIRRORED: ours(dataset, patch, mirror=True),
                OURS_SPATIAL: ours(dataset, patch, mirror=True, affine=RandomAffine(spacing=(1, 1, 1))),
                THEIRS_AUGMENTED: theirs(dataset, patch, plans, augmented=True),
            },
            THEIRS_AUGMENTED,
        ),
    }
    measured: dict[str, dict[int, Times]] = {}
    for title, (arms, reference) in groups.items():
        measured[title] = {
            workers: compare(arms, workers, rounds=settings.rounds, seconds=settings.seconds)
            for workers in settings.workers
        }
        result.tables.append(rates_table(title, measured[title], reference))
    plain, augmented = measured.values()
    rate = decompression_rate(dataset)
    floor = rate / (4 * patch**3)
    one = Spread.of([1 / second for second in plain[settings.workers[0]].seconds[OURS]])
    extra = touched(dataset, patch)
    result.tables[0].note = (
        f"Floor of one process: {floor:.0f} crops/s, as blosc2 decompresses {rate / 1e9:.2f} GB/s of images; "
        f"{floor / extra:.0f} with the {extra:.1f} times as many voxels of the blocks that a crop touches. Ours "
        f"without workers reaches {one.median * extra / floor:.0%} of that."
    )
    result.goals += goals_of(measured)
    result.raw = {"seconds_per_crop": measured, "floor_crops_per_second": floor}
    _add_memory(result, dataset, settings)
    _add_growth(result, folder, root, plans, settings)
    return result


def goals_of(measured: Mapping[str, Mapping[Any, Times]]) -> list[tuple[str, str, bool]]:
    """Return the goals of the rates and whether they were reached; each row says what it compares with what.

    Args:
        measured: title of a group of arms to number of workers to seconds a crop.
    """
    goals = []
    for (arm, reference, compared), by_workers in product(COMPARED, measured.values()):
        for workers, times in by_workers.items():
            if arm in times.seconds:
                faster = times.speedup(arm, reference)
                goal = f"{arm} against {reference} ({compared}), workers {workers}: {GOAL:g} times the crops/s"
                goals.append((goal, str(faster), faster.median >= GOAL))
    return goals


def _add_memory(result: Result, dataset: Any, settings: argparse.Namespace) -> None:
    counts, resident, private = memory_of_a_worker(dataset, settings.patch, settings.crops)
    quarter = len(counts) // 4
    growth = max(resident[-quarter:]) - max(resident[quarter : 2 * quarter])
    goal = f"memory of a worker flat over {settings.crops:,} crops (within 16 MiB)"
    found = f"{growth:+.1f} MiB from the second quarter to the last; {max(private):.0f} MiB of its own at most"
    result.goals.append((goal, found, growth < 16))
    result.raw["memory"] = {"crops": counts, "resident_MiB": resident, "private_MiB": private}
    if not settings.quick:
        series = {"resident (libraries and buffers shared)": (counts, resident), "its own": (counts, private)}
        save_figure(curve(series, "crops read", "MiB", log=False), FIGURES / "loader_memory.png")
        result.figures.append(("loader_memory.png", "Memory of a worker by the number of crops it has read"))


def _add_growth(result: Result, folder: Path, root: Path, plans: Path, settings: argparse.Namespace) -> None:
    found: dict[int, Times] = {}
    for cases in settings.links:
        target = root / f"linked_{cases}"
        shutil.rmtree(target, ignore_errors=True)
        dataset = linked(folder, target, cases)
        arms = {
            OURS: ours(dataset, settings.patch),
            THEIRS: theirs(dataset, settings.patch, plans, augmented=False),
        }
        found[cases] = compare(arms, 0, rounds=settings.rounds, seconds=settings.seconds)
        shutil.rmtree(target)
    table = Table("Crops/s by the number of cases in the folder (links to the same files), without workers", ["cases"])
    table.columns += [OURS, THEIRS]
    series: dict[str, tuple[list[int], list[float]]] = {}
    for cases, times in found.items():
        rates = {arm: Spread.of([1 / second for second in times.seconds[arm]]) for arm in (OURS, THEIRS)}
        table.rows.append([str(cases), *map(str, rates.values())])
        for arm, rate in rates.items():
            x, y = series.setdefault(arm, ([], []))
            x.append(cases)
            y.append(rate.median)
    result.tables.append(table)
    result.raw["seconds_per_crop_by_cases"] = found
    if not settings.quick:
        save_figure(curve(series, "cases in the folder", "crops/s", log=True), FIGURES / "loader_cases.png")
        result.figures.append(("loader_cases.png", "Crops/s by the number of cases in the folder"))


def main() -> None:
    """Measure and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--cases", type=int, default=4, help="how many differ, which takes a while to make")
    parser.add_argument("--size", type=numbers, default=[240, 240, 155], help="voxels (default: 240,240,155)")
    parser.add_argument("--seconds", type=float, default=0.8, help="how long each arm is timed in a round")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2, 4])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--crops", type=int, default=10_000, help="read while the memory of a worker is watched")
    parser.add_argument("--links", type=numbers, default=[4, 16, 64, 256, 1024], help="sizes of the folder")
    parser.add_argument("--folder", type=Path, help="keeps the made-up cases here, for another run")
    quick = {"rounds": 1, "cases": 2, "seconds": 0.5, "workers": [0, 2], "crops": 1000, "links": [4, 64]}
    settings = parse(parser, quick=quick)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure((settings.folder or Path(temporary)).resolve(), settings)
    result.write(settings.json)


if __name__ == "__main__":
    main()
