"""A made-up cohort in the folder layout of BraTS 2023 GLI, for the demonstration and the tests.

The anatomy is the ICBM 152 template, warped anew for every patient; contrasts, noise and LESIONS ARE SYNTHETIC. Good
for seeing every step work, worthless as evidence about clinical data; the cohort says so in its own README.txt.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.data.phantom import CHANNELS, FIELD_OF_VIEW, Grid, Subject, draw_subject, render, smoothed_template
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically, write_json

README = """This cohort is made up.

Every brain is the ICBM 152 (2009a) template that nilearn ships, moved and warped at random. The four contrasts, the
noise and above all the LESIONS ARE SYNTHETIC: nobody's images, no disease. It has the folder layout of BraTS 2023 GLI
so that the same commands run on it. Results on it say nothing about clinical data.

Labels: 1 necrotic core, 2 oedema, 3 enhancing tumour.
"""


def demo_grid(spacing: float | Sequence[float] = 2.0, shape: Sequence[int] | None = None) -> Grid:
    """Return the grid of a cohort: spacing in mm, by default over the field of view of BraTS (240 x 240 x 155 mm)."""
    steps = (spacing,) * 3 if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(steps) != 3 or not all(0.5 <= step <= 10 for step in steps):
        raise InputError(f"spacing={spacing} cannot be used: give one or three numbers between 0.5 and 10 mm")
    counts = tuple(shape) if shape else tuple(round(extent / step) for extent, step in zip(FIELD_OF_VIEW, steps))
    if len(counts) != 3 or min(counts) < 8:
        raise InputError(f"shape={counts} cannot be used: give three numbers of at least 8 voxels")
    return Grid((int(counts[0]), int(counts[1]), int(counts[2])), (float(steps[0]), float(steps[1]), float(steps[2])))


def _follow_up(subject: Subject, rng: np.random.Generator) -> Subject:
    """Return the same patient later: larger lesions, another scan."""
    lesions = tuple(
        replace(lesion, core_mm=lesion.core_mm * 1.2, rim_mm=lesion.rim_mm * 1.2) for lesion in subject.lesions
    )
    return replace(subject, lesions=lesions, noise_seed=int(rng.integers(2**63)))


def draw_cohort(
    *, cases: int, seed: int, second_visits: int = 0, first_patient: int = 0
) -> Iterator[tuple[str, Subject]]:
    """Draw case names and subjects; the first `second_visits` patients have two scans, which count as two cases.

    Patient n has a separate random stream made of `seed` and n: a larger cohort repeats the smaller one, and cohorts
    of one seed with other patient numbers have other patients.
    """
    if cases < 1 or not 0 <= second_visits <= cases // 2:
        raise InputError(
            f"cases={cases} and second_visits={second_visits} do not fit: ask for at least one case, "
            "and for at most half as many second visits as cases"
        )
    for number in range(first_patient, first_patient + cases - second_visits):
        rng = np.random.default_rng([seed, number])
        subject = draw_subject(rng)
        yield f"BraTS-GLI-{number:05d}-000", subject
        if number - first_patient < second_visits:
            yield f"BraTS-GLI-{number:05d}-001", _follow_up(subject, rng)


def _write_volume(path: Path, volume: NDArray[np.generic], grid: Grid) -> None:
    image = sitk.GetImageFromArray(volume.T)
    image.SetSpacing(grid.spacing)
    image.SetOrigin((0.0, -239.0, 0.0))
    with write_atomically(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _write_case(drawn: tuple[str, Subject], *, out: Path, grid: Grid, labelled: bool) -> Path:
    name, subject = drawn
    folder = out / name
    images, labels = render(subject, grid)
    for channel in CHANNELS:
        _write_volume(folder / f"{folder.name}-{channel}.nii.gz", images[channel], grid)
    if labelled:
        _write_volume(folder / f"{folder.name}-seg.nii.gz", labels, grid)
    return folder


def make_cohort(
    out: Path,
    *,
    cases: int,
    seed: int,
    spacing: float | Sequence[float] = 2.0,
    shape: Sequence[int] | None = None,
    labelled: bool = True,
    second_visits: int = 0,
    first_patient: int = 0,
    workers: int = 0,
    progress: bool | None = None,
) -> list[Path]:
    """Write a made-up cohort, the same one for the same arguments.

    Args:
        out: folder of the cohort; holds one folder per case, README.txt and cohort.json.
        cases: number of scans.
        seed: seed of everything random.
        spacing: voxel size in mm, one number or three.
        shape: number of voxels (x, y, z); by default the field of view of BraTS at this spacing.
        labelled: whether the segmentations are written. The lesions are in the images either way.
        second_visits: number of patients with a second scan, to see that patients stay together.
        first_patient: number of the first patient, to keep the patients of two cohorts apart.
        workers: processes; 0 works in this one.
        progress: whether a progress bar is shown; by default on a terminal only.

    Returns:
        The folders of the cases.
    """
    grid = demo_grid(spacing, shape)
    drawn = list(draw_cohort(cases=cases, seed=seed, second_visits=second_visits, first_patient=first_patient))
    with write_atomically(out / "README.txt") as temporary:
        temporary.write_text(README, encoding="utf-8")
    smoothed_template(grid.spacing)  # once here, not once in every forked worker
    write = partial(_write_case, out=out, grid=grid, labelled=labelled)
    folders = _write_all(write, drawn, workers, progress)
    about = {"lesions": "synthetic", "anatomy": "ICBM 152 (2009a) template, warped", "seed": seed, "cases": cases}
    geometry = {"shape": grid.shape, "spacing_mm": grid.spacing, "labelled": labelled}
    write_json(out / "cohort.json", {**about, **geometry, "names": [folder.name for folder in folders]})
    return folders


def _write_all(
    write: Callable[[tuple[str, Subject]], Path], drawn: list[tuple[str, Subject]], workers: int, progress: bool | None
) -> list[Path]:
    disable = None if progress is None else not progress
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(workers)) if workers else None
        written = pool.map(write, drawn) if pool else map(write, drawn)
        return list(tqdm(written, total=len(drawn), desc="made-up cases", unit="case", disable=disable))
