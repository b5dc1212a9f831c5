"""A tiny cohort of 4-D runs: written as fMRIPrep writes them, then converted and planned by the real commands.

Eight runs of six subjects of two groups, in voxels of 12 mm: 16 x 16 x 16 voxels and 24 frames each. All brains have
the same anatomy. Two regions change slowly in time: together in group `linked`, apart in group `free`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.cli import main
from tests.dataset_conversion.run_trees import AFFINE, SHAPE, brain, confounds, save

NUMBER, TR, FRAMES, SIZE = 700, 1.6, 24, 16
GROUPS = ("linked", "free")
RUNS = {"01": 2, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1}
"""Subject -> number of runs; even ones are `free`."""
OPTIONS = ("--spacing", 12, "--size", SIZE, "--time-step", TR, "--min-frames", 4)
"""Of `bdfm convert`."""
NETWORK: dict[str, Any] = {
    "input_shape": [16, 16, 16, 6],
    "strides": [[1, 1, 1, 1], [4, 4, 4, 1], [2, 2, 2, 1]],
    "features_per_stage": [12, 24],
    "depths": [1, 1],
    "window_size": [2, 2, 2, 2],
}


def _slow(random: np.random.Generator) -> np.ndarray:
    """A time course without fast changes, with mean 0 and deviation 1."""
    course = np.convolve(random.normal(size=FRAMES + 6), np.hanning(7), "valid")
    return np.asarray((course - course.mean()) / course.std())


def values(seed: int, group: str) -> np.ndarray:
    """Frames of a run, (x, y, z, t), zero outside of the brain."""
    random = np.random.default_rng(seed)
    where = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    anatomy = 1000 + 250 * np.sin(where / 25).sum(-1)
    left, right = (np.linalg.norm(where - (x, -20, 20), axis=-1) < 28 for x in (-32, 32))
    first, second = _slow(random), _slow(random)
    second = first if group == "linked" else second
    frames = anatomy[..., None] * random.uniform(0.95, 1.05) + 40 * random.normal(size=(*SHAPE, FRAMES))
    frames += 150 * (left[..., None] * first + right[..., None] * second)
    return np.where(brain()[..., None], frames, 0).astype(np.int16)


def write(root: Path) -> Path:
    """Write the download, and participants.tsv with age, group and site."""
    rows = ["participant_id\tage\tgroup\tsite"]
    for number, (subject, runs) in enumerate(RUNS.items()):
        group = GROUPS[number % 2]
        rows.append(f"sub-{subject}\t{20 + 5 * number}\t{group}\t{'Ulm' if number < 3 else 'Bonn'}")
        for run in range(1, runs + 1):
            stem = root / f"sub-{subject}" / "func" / f"sub-{subject}_task-rest_run-{run}"
            space = "space-MNI152NLin2009cAsym_res-2"
            save(Path(f"{stem}_{space}_desc-preproc_bold.nii.gz"), values(10 * number + run, group), tr=TR)
            save(Path(f"{stem}_{space}_desc-brain_mask.nii.gz"), brain().astype(np.uint8))
            motion = confounds(FRAMES, displacement=0.1 + 0.02 * number)
            Path(f"{stem}_desc-confounds_timeseries.tsv").write_text(motion)
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def run_command(*arguments: object) -> None:
    """Run a `bdfm` command in this process."""
    assert main([str(each) for each in arguments]) == 0, arguments


def prepare(download: Path, preprocessed: Path, plans: str) -> None:
    """Convert the download and plan it, with the environment pointing at nnU-Net's folders, for a tiny network."""
    run_command("convert", "fmri-fmriprep", write(download), "-d", NUMBER, *OPTIONS)
    run_command("plan", "-d", NUMBER, "--gpu-memory", 1, "-p", plans)
    path = preprocessed / "Dataset700_FMRIPrep" / f"{plans}.json"
    content = json.loads(path.read_text())
    planned = content["configurations"]["4d"]
    planned["architecture"]["arch_kwargs"] |= NETWORK
    planned |= {"patch_size": NETWORK["input_shape"], "batch_size": 2}
    path.write_text(json.dumps(content))
