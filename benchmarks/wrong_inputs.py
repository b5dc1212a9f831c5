"""Planted faults of inputs, and how many are found; false alarms on good cases that were held out.

Cases of a cohort are divided by patient into parts. Each part in turn is held out: the fingerprint is taken of the
others, every held-out case is checked as it is, and again with each fault planted. A fault counts as found if the case
is named at all, and as named right if the sentence says what was done. Intervals are Wilson's, of 95 %.

A cohort is a folder of nnU-Net's (`imagesTr`, `dataset.json`), or none for the demonstration's made-up brains. With
`--skulls FOLDER` beside it, cases of the same names with their skulls take part as planted faults.

    python benchmarks/wrong_inputs.py [--cohort NAME=FOLDER ...] [--skulls NAME=FOLDER ...]
"""

import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.images.volumes import Volume, read_volume
from bdfm_nnunet.inputs.case_features import CaseFeatures, features_of
from bdfm_nnunet.inputs.coarse_images import BACKGROUNDS, background_of
from bdfm_nnunet.inputs.input_faults import (
    CONTRAST,
    EXCHANGED,
    ORIENTATION,
    SIZE,
    SKULL,
    InputFault,
    faults_of,
    find_faults,
)
from bdfm_nnunet.inputs.input_fingerprint import InputFingerprint, fingerprint_of
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json
from harness import Result, Table, options, parse, prose

GOAL_FOUND, GOAL_ALARMS = 0.95, 0.02
Planted = Iterator[tuple[str, str, list[Volume] | list[int]]]
"""Kind, description, and the volumes with the fault, or the files in the place of each channel."""


@dataclass(frozen=True)
class Cohort:
    """Cases by name, and twins of them with their skulls."""

    name: str
    channels: list[str]
    cases: Mapping[str, Sequence[Path]]
    skulls: Mapping[str, Sequence[Path]]

    def patient(self, case: str) -> str:
        """Return the patient of a case: its name without the number at its end."""
        return re.sub(r"[-_]\d+$", "", case) if len({re.sub(r"[-_]\d+$", "", c) for c in self.cases}) > 3 else case


def read_cohort(name: str, folder: Path, skulls: Path | None) -> Cohort:
    """Read the lists of files of a data set in nnU-Net's layout."""
    channels = channels_of(read_dataset_json(folder / "dataset.json"))
    return Cohort(name, channels, _files(folder, len(channels)), _files(skulls, len(channels)) if skulls else {})


def _files(folder: Path, count: int) -> dict[str, list[Path]]:
    first = sorted((folder / "imagesTr").glob("*_0000.nii.gz"))
    cases = {path.name[: -len("_0000.nii.gz")]: path for path in first}
    return {
        case: [path.with_name(f"{case}_{channel:04d}.nii.gz") for channel in range(count)]
        for case, path in cases.items()
    }


def demo_cohort(folder: Path, cases: int, spacing: float) -> Cohort:
    """Draw the cohort of the demonstration: made-up tumours in warped copies of one template, skull-stripped."""
    made = make_cohort(folder, cases=cases, seed=3, spacing=spacing, progress=False)
    channels = ["t1n", "t1c", "t2w", "t2f"]
    return Cohort("demo", channels, {p.name: [p / f"{p.name}-{c}.nii.gz" for c in channels] for p in made}, {})


def load(files: Sequence[Path]) -> list[Volume]:
    """Read the channels of a case."""
    return [read_volume(path, path.name) for path in files]


# ------------------------------------------------------------------------------------------------------------ faults


def faults(volumes: list[Volume], cohort: Cohort, skull: list[Volume] | None, rng: np.random.Generator) -> Planted:
    """Yield kind, description and volumes of a case with each fault planted."""
    yield from _exchanged(volumes, cohort.channels)
    yield from _other_contrasts(volumes, cohort.channels)
    yield from _turned(volumes, rng)
    yield from _other_spacing(volumes)
    if skull is not None:
        yield SKULL, "skull left on", skull


def _exchanged(volumes: list[Volume], channels: Sequence[str]) -> Planted:
    for a, b in combinations(range(len(volumes)), 2):
        files = list(range(len(volumes)))
        files[a], files[b] = b, a
        yield EXCHANGED, f"{channels[a]} and {channels[b]} swapped", files


def _other_contrasts(volumes: list[Volume], channels: Sequence[str]) -> Planted:
    for a, volume in enumerate(volumes):
        inverted = [*volumes]
        inverted[a] = replace(volume, array=_inverted(volume.array))
        yield CONTRAST, "dark and bright exchanged in one channel", inverted
        for b, other in enumerate(volumes):
            if a != b:
                yield (
                    CONTRAST,
                    f"{channels[b]} in the place of {channels[a]} too",
                    [*volumes[:a], other, *volumes[a + 1 :]],
                )


def _inverted(array: NDArray[Any]) -> NDArray[Any]:
    """Exchange dark and bright of what is not background."""
    values = array.astype(np.float32)
    inside = values != np.median(values[0])
    inside = inside if 0.05 < inside.mean() < 0.98 else np.ones_like(inside)
    low, high = np.percentile(values[inside], (1, 99))
    return np.where(inside, low + high - np.clip(values, low, high), values)


def _turned(volumes: list[Volume], rng: np.random.Generator) -> Planted:
    """Turn the axes: as another program stores them, with a header that says so, and with one that does not.

    A mirrored left and right beside an unchanged header is left out: nothing in an image tells.
    """
    mirrors = {"x": (0,), "y": (1,), "z": (2,), "x and y": (0, 1)}
    for name, axes in mirrors.items():
        arrays = [np.flip(volume.array, axes) for volume in volumes]
        grid = volumes[0].grid
        direction = np.reshape(grid.direction, (3, 3)).copy()
        direction[:, list(axes)] *= -1
        told = replace(grid, direction=tuple(direction.ravel()))
        changed = [replace(volume, array=array, grid=told) for volume, array in zip(volumes, arrays)]
        yield ORIENTATION, "mirrored axes, header says so", changed
        if name != _left_right(grid):
            yield ORIENTATION, "mirrored axes, header does not", [replace(v, grid=grid) for v in changed]
    order = [(1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)][int(rng.integers(5))]
    size, spacing = ([getattr(volumes[0].grid, what)[axis] for axis in order] for what in ("size", "spacing"))
    grid = replace(volumes[0].grid, size=tuple(size), spacing=tuple(spacing))
    yield (
        ORIENTATION,
        "exchanged axes, header does not say so",
        [replace(volume, array=volume.array.transpose(order), grid=grid) for volume in volumes],
    )


def _left_right(grid: Any) -> str:
    return next(axis for axis, letter in zip("xyz", grid.orientation) if letter in "LR")


def _other_spacing(volumes: list[Volume]) -> Planted:
    for name, factors in {
        "voxels twice as large": (2, 2, 2),
        "slices twice as thick": (1, 1, 2),
        "cm": (0.1,) * 3,
    }.items():
        spacing = tuple(step * factor for step, factor in zip(volumes[0].grid.spacing, factors))
        grid = replace(volumes[0].grid, spacing=spacing)
        yield SIZE, f"header: {name}", [replace(volume, grid=grid) for volume in volumes]


# -------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Found:
    """Counts of one cohort."""

    good: int
    alarms: int
    planted: Counter[tuple[str, str]]
    found: Counter[tuple[str, str]]
    named: Counter[tuple[str, str]]
    reasons: Counter[str]


def measure(cohort: Cohort, *, parts: int, fit: int, seed: int, tell: Callable[[str], None]) -> Found:
    """Hold out each part of the patients, and count."""
    rng = np.random.default_rng(seed)
    patients = sorted({cohort.patient(case) for case in cohort.cases})
    part_of = dict(zip(rng.permutation(patients), np.arange(len(patients)) % parts))
    kinds = [background_of(each.array) for case in list(cohort.cases)[:5] for each in load(cohort.cases[case])]
    background = max(BACKGROUNDS, key=kinds.count)
    features = {case: features_of(load(f), background=background, canonical=False) for case, f in cohort.cases.items()}
    counted = Found(0, 0, Counter(), Counter(), Counter(), Counter())
    for part in range(parts):
        inside = [features[case] for case in cohort.cases if part_of[cohort.patient(case)] != part][:fit]
        print_of = fingerprint_of(inside, channels=cohort.channels, background=background, canonical=False)
        for case in (case for case in cohort.cases if part_of[cohort.patient(case)] == part):
            volumes = load(cohort.cases[case])
            alarms = find_faults(print_of, volumes)
            counted = replace(counted, good=counted.good + 1, alarms=counted.alarms + bool(alarms))
            counted.reasons.update(fault.kind for fault in alarms)
            for fault in alarms:
                tell(f"{cohort.name}: false alarm: {fault.sentence}")
            twin = load(cohort.skulls[case]) if case in cohort.skulls else None
            for kind, what, changed in faults(volumes, cohort, twin, rng):
                told = found_in(print_of, changed, features[case], [volume.name for volume in volumes])
                counted.planted[kind, what] += 1
                counted.found[kind, what] += bool(told)
                counted.named[kind, what] += any(fault.kind == kind for fault in told)
    return counted


def found_in(
    fingerprint: InputFingerprint, changed: Sequence[Any], case: CaseFeatures, names: Sequence[str]
) -> list[InputFault]:
    """Return what is found of volumes, or of the files of a case in another order."""
    if isinstance(changed[0], Volume):
        return find_faults(fingerprint, changed)
    return faults_of(fingerprint, case.of_files(changed), names)


def interval(count: int, of: int) -> str:
    """Return a share with Wilson's interval of 95 %, as text."""
    if not of:
        return "-"
    ends = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
    return f"{count / of:.1%} ({ends.low:.1%} to {ends.high:.1%}; {count} of {of})"


def tables_of(cohort: Cohort, counts: Found) -> Table:
    """Return the rows of a cohort."""
    rows = [["good cases", interval(counts.alarms, counts.good), "", ""]]
    by_kind: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in counts.planted:
        by_kind[each[0]].append(each)
    for kind, members in by_kind.items():
        planted, found, named = (sum(c[m] for m in members) for c in (counts.planted, counts.found, counts.named))
        worst = min(members, key=lambda each: counts.found[each] / counts.planted[each])
        share = counts.found[worst] / counts.planted[worst]
        rows.append([kind, interval(found, planted), f"{named / planted:.1%}", f"{worst[1]}: {share:.1%}"])
    columns = ["planted", "named at all", "named right", "found least"]
    return Table(f"{cohort.name}: {len(cohort.cases)} cases, {len(cohort.channels)} channels", columns, rows)


def pairs(texts: Sequence[str]) -> dict[str, Path]:
    """Read NAME=FOLDER."""
    return {text.partition("=")[0]: Path(text.partition("=")[2]) for text in texts}


def main() -> None:
    """Measure every cohort and write the result."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--cohort", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--skulls", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--cases", type=int, default=60, help="of the demonstration's cohort")
    parser.add_argument("--parts", type=int, default=3, help="of the patients, each held out in turn")
    parser.add_argument("--fit", type=int, default=100, help="cases of a fingerprint, at most")
    settings = parse(parser, quick={"cases": 12})
    result = Result("Wrong inputs", prose(__doc__), vars(settings), packages=("numpy", "scipy"))
    good, alarms, planted, found = 0, 0, 0, 0
    skulls = pairs(settings.skulls)
    with tempfile.TemporaryDirectory() as folder:
        cohorts = [demo_cohort(Path(folder) / "demo", settings.cases, 3.0)]
        cohorts += [read_cohort(name, path, skulls.get(name)) for name, path in pairs(settings.cohort).items()]
        for cohort in cohorts:
            counts = measure(cohort, parts=settings.parts, fit=settings.fit, seed=1, tell=print)
            result.tables.append(tables_of(cohort, counts))
            good, alarms = good + counts.good, alarms + counts.alarms
            planted, found = planted + counts.planted.total(), found + counts.found.total()
    result.goals = [
        (
            f"at least {GOAL_FOUND:.0%} of planted faults are found",
            interval(found, planted),
            found >= GOAL_FOUND * planted,
        ),
        (f"at most {GOAL_ALARMS:.0%} false alarms", interval(alarms, good), alarms <= GOAL_ALARMS * good),
    ]
    result.raw = {"good": good, "alarms": alarms, "planted": planted, "found": found}
    result.write(settings.json)


if __name__ == "__main__":
    main()
