"""Conversion of full-size cases against `cp -r`, and of cases whose labels change against a plain script.

The cases are made up on a real brain template, 240 x 240 x 155 voxels, four images and a label each, gzip files in
memory; every arm writes into an empty folder. The floor is uncompressing and hashing every file in one process.

- BraTS 2023 (labels 1, 2, 3, nothing changes): `bdfm convert` with --link copy, hard and sym beside `cp -r`, which only
  moves bytes. We also uncompress, check and hash every voxel.
- BraTS 2021 (labels 1, 2, 4, every label is written anew): `bdfm convert --link copy` beside one process that copies
  images with shutil and maps labels with SimpleITK and NumPy, as nnU-Net's own conversion scripts do, and checks no
  more than the label values.

A converter that looks at nothing is faster: it is reading every voxel, which finds damaged and mislabelled files, that
costs the time (three quarters of it gzip and SHA-256), and placing the files costs next to nothing beside it. The work
is shared among processes without any lock, so it grows with the cores until the disk is the limit; starting the workers
counts, and more workers than cores cost some.

    python benchmarks/conversion.py [--quick] [--cases 40] [--rounds 3] [--workers 1,2,4] [--folder DIR]
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import igzip

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.dataset_conversion import convert
from harness import Result, Table, Times, alternate, numbers, options, parse, prose

OLD_NAMES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
PACKAGES = ("numpy", "nibabel", "SimpleITK", "isal")

CP, SCRIPT = "`cp -r`", "plain script"

Arm = Callable[[Path], object]


def make_trees(root: Path, *, cases: int, drawn: int, size: Sequence[int]) -> tuple[Path, Path]:
    """Write the same made-up cases in the layouts of BraTS 2023 and 2021; those beyond `drawn` are copies."""
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
    """Return an arm of ours; starting the worker processes counts."""

    def run(out: Path) -> None:
        os.environ["nnUNet_raw"] = str(out)
        report = convert(release, tree, dataset_id=1, link=link, workers=workers)
        assert not report.refused

    return run


def plain_script(tree: Path) -> Arm:
    """Convert in one process: images copied, labels 1, 2, 4 written as 2, 1, 3."""

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
    """Run `cp -r`."""
    return lambda out: subprocess.run(["cp", "-r", str(tree), str(out / "copy")], check=True)


def floor(tree: Path) -> Arm:
    """Uncompress and hash every file in one process, and write nothing."""
    return lambda out: [hashlib.sha256(igzip.decompress(path.read_bytes())) for path in tree.rglob("*.nii.gz")]


def emptied(folder: Path) -> None:
    """Make the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def compare(arms: dict[str, Arm], *, out: Path, rounds: int) -> Times:
    """Run the arms in turn, each into an emptied folder."""
    emptied(out)
    arms["floor"](out)  # reads every file into memory
    calls = {name: partial(arm, out) for name, arm in arms.items()}
    return alternate(calls, rounds=rounds, warmup=0, before=partial(emptied, out))


def table(title: str, times: Times, reference: str, *, cases: int) -> Table:
    """Return a table of rates, and of times relative to the reference."""
    result = Table(title, ["arm", "s", "cases/s", f"time relative to {reference}"])
    for arm in times.seconds:
        middle = times.of(arm)
        slower = times.speedup(reference, arm)
        result.rows.append([arm, str(middle), f"{cases / middle.median:.3g}", str(slower)])
    return result


def measure(root: Path, settings: argparse.Namespace) -> Result:
    """Make the trees in `root` and compare all arms."""
    new, old = make_trees(root, cases=settings.cases, drawn=settings.drawn, size=settings.size)
    unchanged: dict[str, Arm] = {CP: copied(new), "floor": floor(new)}
    relabelled: dict[str, Arm] = {SCRIPT: plain_script(old), "floor": floor(old)}
    for workers in settings.workers:
        for link in ("copy", "hard", "sym"):
            unchanged[arm_name(link, workers)] = converted("brats2023-gli", new, link=link, workers=workers)
        relabelled[arm_name("copy", workers)] = converted("brats2021", old, link="copy", workers=workers)
    result = Result("Conversion", prose(__doc__), vars(settings), PACKAGES)
    result.raw["MB"] = sum(path.stat().st_size for path in new.rglob("*.nii.gz")) / 1e6
    for key, title, arms, reference in (
        ("unchanged", "BraTS 2023, nothing changes", unchanged, CP),
        ("relabelled", "BraTS 2021, every label is written anew", relabelled, SCRIPT),
    ):
        times = compare(arms, out=root / "out", rounds=settings.rounds)
        result.raw[key] = times
        result.tables.append(table(title, times, reference, cases=settings.cases))
    return result


def arm_name(link: str, workers: int) -> str:
    """Return the name of an arm of ours in the tables."""
    return f"--link {link}, {workers} worker{'s' if workers > 1 else ''}"


def main() -> None:
    """Measure and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--drawn", type=int, default=4, help="how many of them differ, which takes a while to make")
    parser.add_argument("--size", type=numbers, default=[240, 240, 155], help="voxels (default: 240,240,155)")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="the disk to measure (default: that of temporary files)")
    settings = parse(parser, quick={"rounds": 1, "cases": 8, "drawn": 1, "workers": [1, 2]})
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        os.environ.pop(variable, None)
    keep_freed_memory()  # as `bdfm convert` does; the other arms of this process have it too
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        result = measure(Path(folder), settings)
    result.write(settings.json)


if __name__ == "__main__":
    main()
