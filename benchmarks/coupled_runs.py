"""Made-up 4-D runs on real anatomy, in which networks of regions are coupled; written as fMRIPrep writes runs.

Shapes: volumes (x, y, z), courses (frames, regions).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import gamma

from bdfm_nnunet.data.region_maps import blocks_of
from bdfm_nnunet.dataset_conversion.writing.run_lattice import template_lattice
from bdfm_nnunet.files import write_json

Array = NDArray[np.float64]

TARGET, GROUPS = "group", ("control", "patient")
SPACING, SIZE = 8.0, 24
SPACE = "space-MNI152NLin2009cAsym_res-8"
_RESPONSE_SECONDS = 32.0


@dataclass(frozen=True)
class Cohort:
    """A made-up cohort of runs.

    Attributes:
        subjects: of each data set, half of them of each group.
        frames: of a run.
        seconds: between frames.
        networks: of regions.
        regions: of each network.
        within: share of the variance of a region's course that its network explains.
        coupling: correlation of the courses of paired networks, by group.
        spread: standard deviation of that correlation between subjects.
        signal: standard deviation of a region's course, share of the image's brightness.
        noise: thermal noise of a voxel, physiological noise and drift, shares of the brightness.
        shift_mm: standard deviation of the anatomy's shift along each axis.
    """

    subjects: int = 80
    frames: int = 60
    seconds: float = 2.0
    networks: int = 6
    regions: int = 4
    within: float = 0.6
    coupling: tuple[float, float] = (0.1, 0.6)
    spread: float = 0.15
    signal: float = 0.025
    noise: tuple[float, float, float] = (0.012, 0.004, 0.005)
    shift_mm: float = 2.0


COHORT = Cohort()


@lru_cache(maxsize=1)
def anatomy() -> tuple[Array, Array, NDArray[np.int32], NDArray[np.bool_]]:
    """Return brightness, grey matter, regions from 1 on, and the brain, on the grid of converted runs, (x, y, z)."""
    from nilearn import datasets

    parts = (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template, datasets.load_mni152_brain_mask)
    lattice = template_lattice(SPACING, SIZE)
    grey, white, brain = (_on_lattice(part(resolution=2), lattice.affine) for part in parts)
    cortex = grey > 0.35
    regions = blocks_of(cortex, COHORT.networks * COHORT.regions)
    return 600 * brain + 300 * grey + 150 * white, grey, regions, brain > 0.5


def _on_lattice(image: Any, affine: Array) -> Array:
    values = ndimage.gaussian_filter(np.asarray(image.dataobj, dtype=np.float64), SPACING / 2 / 2.355)
    matrix = np.linalg.inv(image.affine) @ affine
    found = ndimage.affine_transform(values, matrix[:3, :3], matrix[:3, 3], (SIZE,) * 3, order=1)
    return np.asarray(found / values.max())


def response(seconds: float) -> Array:
    """Return the double-gamma haemodynamic response (Glover 1999) in steps of some seconds, of unit sum of squares."""
    time = np.arange(0, _RESPONSE_SECONDS, seconds)
    found = gamma.pdf(time, 6) - gamma.pdf(time, 16) / 6
    return np.asarray(found / np.linalg.norm(found))


def courses_of(group: int, cohort: Cohort, rng: np.random.Generator) -> Array:
    """Return the course of each region, (frames, regions), of expected variance 1 in both groups."""
    shape = response(cohort.seconds)
    long = cohort.frames + len(shape)
    networks = rng.normal(size=(long, cohort.networks))
    r = float(np.clip(cohort.coupling[group] + cohort.spread * rng.normal(), -0.95, 0.95))
    networks[:, 1::2] = r * networks[:, ::2] + np.sqrt(1 - r**2) * networks[:, 1::2]
    own = rng.normal(size=(long, cohort.networks * cohort.regions))
    neural = np.sqrt(cohort.within) * np.repeat(networks, cohort.regions, axis=1) + np.sqrt(1 - cohort.within) * own
    blurred = ndimage.convolve1d(neural, shape[::-1], axis=0, origin=0, mode="constant")
    return np.asarray(blurred[len(shape) // 2 : len(shape) // 2 + cohort.frames])


def motion_of(cohort: Cohort, rng: np.random.Generator) -> Array:
    """Return translations in mm, (frames, 3): slow, and some jumps; subjects differ in how much."""
    much = rng.gamma(2, 0.03)
    steps = much * rng.normal(size=(cohort.frames, 3))
    jumps = rng.random(cohort.frames) < 0.03
    steps[jumps] *= 8
    way = np.cumsum(steps, axis=0)
    return np.asarray(way - way.mean(axis=0))


def frames_of(group: int, motion: Array, cohort: Cohort, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return the frames of a run, (x, y, z, t)."""
    bright, grey, regions, brain = anatomy()
    courses = np.concatenate([np.zeros((cohort.frames, 1)), courses_of(group, cohort, rng)], axis=1)
    thermal, bodily, slow = cohort.noise
    fields = [ndimage.zoom(rng.normal(size=(5, 5, 5)), SIZE / 5, order=1) for _ in range(4)]
    bodily_courses = bodily * ndimage.gaussian_filter1d(rng.normal(size=(4, cohort.frames)), 0.7, axis=1) * 1.5
    drift = slow * rng.normal(size=3) @ np.stack([np.linspace(-1, 1, cohort.frames), *(
        np.cos(np.pi * order * np.linspace(0, 1, cohort.frames)) for order in (1, 2))])  # fmt: skip
    offset = cohort.shift_mm * rng.normal(size=3)
    frames = np.empty((SIZE, SIZE, SIZE, cohort.frames))
    for number in range(cohort.frames):
        change = cohort.signal * grey * courses[number][regions] + drift[number]
        change = change + sum(field * course[number] for field, course in zip(fields, bodily_courses, strict=True))
        moved = ndimage.shift(bright * (1 + change), (offset + motion[number]) / SPACING, order=1)
        frames[..., number] = moved + thermal * 1000 * rng.normal(size=moved.shape)
    return np.where(brain[..., None], np.clip(np.rint(frames), 1, 32000), 0).astype(np.int16)


# ------------------------------------------------------------------------------------------------------------- files


def write_subject(number: int, *, data_set: int, cohort: Cohort, root: Path) -> dict[str, Any]:
    """Write the run of a subject as fMRIPrep does, and return its row of participants.tsv."""
    rng, group = np.random.default_rng([data_set, number]), number % 2
    motion = motion_of(cohort, rng)
    frames = frames_of(group, motion, cohort, rng)
    stem = f"sub-{data_set}{number:03d}_task-rest"
    folder = root / f"sub-{data_set}{number:03d}" / "func"
    folder.mkdir(parents=True)
    affine = template_lattice(SPACING, SIZE).affine
    affine[0] = [-SPACING, 0, 0, affine[0, 3] + SPACING * (SIZE - 1)]  # stored from right to left
    _save(folder / f"{stem}_{SPACE}_desc-preproc_bold.nii.gz", frames[::-1], affine, cohort.seconds)
    _save(folder / f"{stem}_{SPACE}_desc-brain_mask.nii.gz", anatomy()[3][::-1].astype(np.uint8), affine, None)
    write_json(folder / f"{stem}_{SPACE}_desc-preproc_bold.json", {"RepetitionTime": cohort.seconds})
    _write_confounds(folder / f"{stem}_desc-confounds_timeseries.tsv", motion)
    return {"participant_id": f"sub-{data_set}{number:03d}", "age": int(rng.integers(20, 60)), TARGET: GROUPS[group]}


def _save(path: Path, values: NDArray[Any], affine: Array, seconds: float | None) -> None:
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 4)
    if seconds:
        image.header.set_zooms((SPACING,) * 3 + (seconds,))
        image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _write_confounds(path: Path, motion: Array) -> None:
    away = np.abs(np.diff(motion, axis=0)).sum(axis=1)
    names = ["framewise_displacement", *(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")]
    rows = [["n/a" if number == 0 else f"{away[number - 1]:.5f}", *(f"{value:.5f}" for value in step), "0", "0", "0"]
            for number, step in enumerate(motion)]  # fmt: skip
    path.write_text("\n".join("\t".join(row) for row in [names, *rows]) + "\n", encoding="utf-8")
