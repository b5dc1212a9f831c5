"""Results of two made-up runs over a few cases, with images, for the tests of pages."""

from pathlib import Path

import nibabel
import numpy as np

from bdfm_nnunet.evaluation import evaluate_folders
from bdfm_nnunet.results import Cost, RunResult, write_result

HARMLESS = "<script>alert(1)<"
"""A case whose name is no name to trust; a slash would be no file's name."""
CASES = ("case_0", "case_1", "case_2", HARMLESS)
REGIONS = {"whole": (1, 2), "core": (2,)}
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
SHAPE = (20, 24, 16)


def write_runs(root: Path) -> dict[str, Path]:
    """Write images, references, predictions and scores of two runs, and a pre-training; return their results.

    The first run predicts nothing but a voxel in the wrong place; the second is right but for `case_1`, where it is a
    voxel off.
    """
    folders = {name: root / name for name in ("imagesTr", "labelsTr", "scratch", "tuned")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for case in CASES:
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[6:12, 8:14, 5:10] = 1
        labels[8:10, 10:12, 6:8] = 2
        image = np.zeros(SHAPE, dtype=np.float32)
        image[2:18, 2:22, 2:15] = rng.uniform(50, 100, (16, 20, 13)) + 60 * labels[2:18, 2:22, 2:15]
        wrong = np.zeros(SHAPE, dtype=np.uint8)
        wrong[3, 3, 3] = 1
        _save(folders["imagesTr"] / f"{case}_0000.nii.gz", image)
        _save(folders["labelsTr"] / f"{case}.nii.gz", labels)
        _save(folders["scratch"] / f"{case}.nii.gz", wrong)
        _save(folders["tuned"] / f"{case}.nii.gz", np.roll(labels, 1, axis=0) if case == "case_1" else labels)
    results = {name: root / f"{name}.json" for name in ("scratch", "tuned")}
    for name, path in results.items():
        evaluate_folders(
            folders["labelsTr"], folders[name], regions=REGIONS, release="made-up", out=path, progress=False
        )
    results["pretraining"] = root / "fold_0"
    write_result(results["pretraining"] / "pretraining_summary.json", pretraining())
    return results


def pretraining() -> RunResult:
    """A pre-training of three epochs with everything that a page shows of it."""
    release = {"brats2023-gli": {"licence": "CC BY <4.0>", "overlaps": ["brats2021"]}}
    run = {"dataset": "Dataset501_Demo", "trainer": "Some", "train": 4, "val": 1, "releases": release}
    return RunResult(
        kind="pretraining",
        trainer="nnUNetTrainerBDFMPretrain",
        settings={"dataset": "Dataset501_Demo", "training": {"epochs": 3, "initial_lr": 0.001}},
        curves={"train_losses": [2.0, 1.5, 1.25], "val_losses": [2.5, None, 1.75], "psnr": [10.0, 11.0, 12.5]},
        exposure={"runs": [run], "note": "An earlier training is not known"},
        cost=Cost(seconds=7200.0, epochs=3, steps=750, parameters=1234567),
        versions={"torch": "2.9.9"},
        extra={"psnr": 12.5},
    )


def _save(path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
