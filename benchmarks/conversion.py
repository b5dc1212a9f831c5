"""Conversion of full-size cases against `cp -r`, and of cases whose labels change against a plain script.

The cases are made up on a real brain template, 240 x 240 x 155 voxels, four images and a label each, as gzip files.
The arms run in turn in every round, each into an empty folder, from files that are in memory already; the figures are
medians, and the smallest and largest ratio within a round.

- BraTS 2023 (labels 1, 2, 3, nothing changes): `bdfm convert` with --link copy, hard and sym beside `cp -r`. `cp` only
  moves bytes; we also uncompress, check and hash every voxel, and `floor` is what uncompressing and hashing cost by
  themselves in one process.
- BraTS 2021 (labels 1, 2, 4, every label is written anew): `bdfm convert --link copy` beside one process that copies
  images with shutil and maps labels with SimpleITK and NumPy, as nnU-Net's own conversion scripts do, and checks no
  more than the label values.

    python benchmarks/conversion.py [--cases 40] [--rounds 3] [--workers 1,2,4] [--folder DIR] [--json FILE]
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import igzip

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.dataset_conversion import convert

OLD_NAMES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
PACKAGES = ("numpy", "nibabel", "SimpleITK", "isal")

Arm = Callable[[Path], object]


def make_trees(root: Path, *, cases: int, drawn: int, size: Sequence[int]) -> tuple[Path, Path]:
    """The same made-up cases in the layouts of BraTS 2023 and 2021; those beyond `drawn` are copies of the first."""
    from bdfm_nnunet.data.demo import make_cohort  # worker processes, which import this file, do without

    new, old = root / "brats2023", root / "brats2021"
    spacing = [240 / size[0], 240 / size[1], 155 / size[2]]
    folders = make_cohort(new, cases=min(cases, drawn), seed=0, spacing=spacing, shape=size)
    for number in range(len(folders), cases):
        folders.append(_copy_of(folders[number % drawn], f"BraTS-GLI-{number:05}-000"))
    for number, folder in enumerate(folders):
        name = f"BraTS2021_{number:05}"
        (old / name).mkdir(parents=True)
        for suffix, before in OLD_NAMES.items():
            shutil.copy(folder / f"{folder.name}-{suffix}.nii.gz", old / name / f"{name}_{before}.nii.gz")
        label = nib.load(folder / f"{folder.name}-seg.nii.gz")
        values = np.asarray(label.dataobj).copy()
        values[values == 3] = 4
        nib.save(nib.Nifti1Image(values, None, label.header), old / name / f"{name}_seg.nii.gz")
    return new, old


def _copy_of(folder: Path, name: str) -> Path:
    target = folder.with_name(name)
    target.mkdir()
    for path in folder.iterdir():
        shutil.copy(path, target / path.name.replace(folder.name, name))
    return target


def converted(release: str, tree: Path, *, link: str, workers: int) -> Arm:
    """An arm of ours; starting the worker processes counts."""

    def run(out: Path) -> None:
        os.environ["nnUNet_raw"] = str(out)
        report = convert(release, tree, dataset_id=1, link=link, workers=workers)
        assert not report.refused

    return run


def plain_script(tree: Path) -> Arm:
    """One process: images copied, labels 1, 2, 4 written as 2, 1, 3."""

    def run(out: Path) -> None:
        for part in ("imagesTr", "labelsTr"):
            (out / part).mkdir()
        for case in sorted(tree.iterdir()):
            for channel, suffix in enumerate(OLD_NAMES.values()):
                target = out / "imagesTr" / f"{case.name}_{channel:04}.nii.gz"
                shutil.copy(case / f"{case.name}_{suffix}.nii.gz", target)
            label = sitk.ReadImage(str(case / f"{case.name}_seg.nii.gz"))
            before = sitk.GetArrayFromImage(label)
            if not set(np.unique(before)) <= {0, 1, 2, 4}:
                raise ValueError(f"{case.name} has an unknown label")
            after = np.zeros_like(before)
            for there, here in ((1, 2), (2, 1), (4, 3)):
                after[before == there] = here
            mapped = sitk.GetImageFromArray(after)
            mapped.CopyInformation(label)
            sitk.WriteImage(mapped, str(out / "labelsTr" / f"{case.name}.nii.gz"))

    return run


def copied(tree: Path) -> Arm:
    """`cp -r`."""
    return lambda out: subprocess.run(["cp", "-r", str(tree), str(out / "copy")], check=True)


def floor(tree: Path) -> Arm:
    """Uncompresses and hashes every file in one process, and writes nothing."""
    return lambda out: [hashlib.sha256(igzip.decompress(path.read_bytes())) for path in tree.rglob("*.nii.gz")]


def seconds(arm: Arm, scratch: Path) -> float:
    """Time of one run into a new folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        start = time.perf_counter()
        arm(Path(out))
        return time.perf_counter() - start


def compare(arms: dict[str, Arm], reference: str, *, scratch: Path, rounds: int, size: tuple[int, float]) -> dict:
    """Runs the arms in turn.

    Args:
        arms: name to arm.
        reference: the arm that ratios are taken to.
        scratch: an empty folder.
        rounds: how often every arm runs.
        size: number of cases and their MB.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    seconds(arms["floor"], scratch)  # reads every file into memory
    for _ in range(rounds):
        for name, arm in arms.items():
            times[name].append(seconds(arm, scratch))
    cases, megabytes = size
    table = {}
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, times[reference], strict=True)]
        middle = statistics.median(values)
        table[name] = {
            "seconds": middle,
            "cases_per_second": cases / middle,
            "MB_per_second": megabytes / middle,
            f"time_relative_to_{reference}": {
                "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)
            },
        }  # fmt: skip
    return table


def measure(scratch: Path, settings: argparse.Namespace) -> dict:
    """Makes the trees in `scratch` and compares all arms."""
    new, old = make_trees(scratch, cases=settings.cases, drawn=settings.drawn, size=settings.size)
    files = list(new.rglob("*.nii.gz"))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    unchanged: dict[str, Arm] = {"cp_r": copied(new), "floor": floor(new)}
    relabelled: dict[str, Arm] = {"plain_script": plain_script(old), "floor": floor(old)}
    for workers in settings.workers:
        for link in ("copy", "hard", "sym"):
            unchanged[f"{link}_{workers}_workers"] = converted("brats2023-gli", new, link=link, workers=workers)
        relabelled[f"copy_{workers}_workers"] = converted("brats2021", old, link="copy", workers=workers)
    how = {"scratch": scratch, "rounds": settings.rounds, "size": (settings.cases, megabytes)}
    return {
        "cases": settings.cases,
        "size": settings.size,
        "MB": megabytes,
        "rounds": settings.rounds,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "unchanged": compare(unchanged, "cp_r", **how),
        "relabelled": compare(relabelled, "plain_script", **how),
    }


def numbers(text: str) -> list[int]:
    """Numbers separated by commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Prints the tables as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--drawn", type=int, default=4, help="how many of them differ, which takes a while to make")
    parser.add_argument("--size", type=numbers, default=[240, 240, 155], help="voxels (default: 240,240,155)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="the disk to measure (default: that of temporary files)")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        os.environ.pop(variable, None)
    keep_freed_memory()  # as `bdfm convert` does; the other arms of this process have it too
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        result = measure(Path(folder), settings)
    print(json.dumps(result, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
