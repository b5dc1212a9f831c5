"""The whole way on made-up cohorts in the layouts of BraTS 2026: download, folds, `bdfm finish`, container, attack.

What each step took is in RELEASE.json in the folder that BDFM_STEP_TIMES names, for docs/challenges.md.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.containers.runtime_requirements import LOADED
from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.nnunet_folders import VARIABLES, trainer_search_path
from tests.conftest import SHAPE, SPACING

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="containers are for Linux")]
SHORT = {"training.epochs": 1, "training.iterations_per_epoch": 2, "training.val_iterations_per_epoch": 1}
DOWNLOADS = {
    "brats2026-met": ("MICCAI-LH-BraTS2025-MET-Challenge-TrainingData_batch1", "BraTS-MET-{:05d}-{}"),
    "brats2026-goat": ("MICCAI2024-BraTS-GoAT-TrainingData-With-GroundTruth", "BraTS-GoAT-{:05d}"),
}
LIMIT_MINUTES = 15
"""For one of them, on two cores that have nothing else to do."""


def made_download(root: Path, release: str) -> Path:
    """A made-up cohort of 7 scans under the names of a release; of MET two patients have two time points."""
    folder, pattern = DOWNLOADS[release]
    visits = 2 if release == "brats2026-met" else 0
    for case in make_cohort(root / "made", cases=7, seed=5, spacing=SPACING, shape=SHAPE, second_visits=visits):
        *_, number, visit = case.name.split("-")
        name = pattern.format(int(number), visit)
        for path in case.iterdir():
            target = root / folder / name / path.name.replace(case.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    return root / folder


class Steps:
    """The commands as a user types them, and what each took."""

    def __init__(self, root: Path) -> None:
        self.seconds: dict[str, float] = {}
        folders = {name: str(root / name) for name in VARIABLES}
        for folder in folders.values():
            Path(folder).mkdir(parents=True)
        self.environ = os.environ | folders | {
            "nnUNet_extTrainer": trainer_search_path(), "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def __call__(self, step: str, *words: object, code: int = 0) -> str:
        before = time.monotonic()
        command = [sys.executable, "-m", "bdfm_nnunet.cli", *map(str, words)]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, cwd="/")
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - before
        assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.mark.parametrize(("release", "number"), [("brats2026-met", 701), ("brats2026-goat", 702)])
def test_from_download_to_container(release: str, number: int, tmp_path: Path) -> None:
    download, run = made_download(tmp_path, release), Steps(tmp_path / "nnunet")
    out = tmp_path / "finished"
    run("convert", "convert", release, download, "-d", number)
    run("plan", "plan", "-d", number, "--gpu-memory", "0.05")
    run("plan", "plan", "-d", number, "--variant", "short", *(f"--set={name}={n}" for name, n in SHORT.items()))
    for fold in range(5):
        run(
            "five folds",
            "train",
            number,
            "short",
            fold,
            "-tr",
            "nnUNetTrainerBDFM",
            "-p",
            "BDFMPlans",
            "-device",
            "cpu",
        )
    told = run("finish", "finish", "-d", number, "-c", "short", "--release", release, "--container", release,
               "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "-o", out)  # fmt: skip
    assert f"under {release}: allowed" in told
    table = run("check", "container", "check", out / "container", "--engine", "here")
    report = json.loads((out / "container" / "check" / "here.json").read_text())
    assert report["failed"] == 0 and len(report["rows"]) >= 70, table
    assert report["peak_mib"] < 32 * 1024
    if release == "brats2026-goat":
        _check_what_is_loaded(out / "container", download, tmp_path / "predicted", run)
    minutes = sum(run.seconds.values()) / 60
    if folder := os.environ.get("BDFM_STEP_TIMES"):
        content = {
            "seconds": run.seconds,
            "peak_mib": report["peak_mib"],
            "seconds_per_case": report["seconds_per_case"],
        }
        Path(folder, f"{release}.json").write_text(json.dumps(content, indent=2))
        Path(folder, f"{release}.md").write_text(table)
    assert minutes < LIMIT_MINUTES or os.getloadavg()[0] > 3, run.seconds


def _check_what_is_loaded(container: Path, download: Path, out: Path, run: Any) -> None:
    """The entry point predicts cases of the download, and loads nothing that its requirements do not name."""
    code = (
        "import json, sys; from importlib.metadata import packages_distributions as all_of\n"
        "sys.path.insert(0, sys.argv[1] + '/package')\n"
        "from bdfm_nnunet.containers.entry import main\n"
        "ended, known = main(sys.argv[1], sys.argv[2:]), all_of()\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(json.dumps([ended, sorted({each for name in names for each in known.get(name, [])})]))"
    )
    words = [sys.executable, "-c", code, str(container), str(download), str(out)]
    done = subprocess.run(words, env=run.environ, capture_output=True, text=True, check=True)
    ended, loaded = json.loads(done.stdout.splitlines()[-1])
    assert ended == 0 and len(list(out.iterdir())) == len(list(download.iterdir()))
    for path in out.iterdir():
        case = path.name.removesuffix(".nii.gz")
        image = nib.load(download / case / f"{case}-t1n.nii.gz")
        assert np.array_equal(nib.load(path).affine, image.affine) and nib.load(path).shape == image.shape
    plain = {name.lower().replace("_", "-") for name in loaded}
    assert not plain & {"matplotlib", "scikit-learn", "nilearn", "seaborn", "tensorboard", "distributed"}
    with_torch = {"torch", "triton", "sympy", "mpmath", "jinja2", "fsspec", "markupsafe", "bdfm-nnunet", "argparse"}
    unlisted = {name for name in plain - with_torch if not name.startswith(("nvidia-", "cuda-"))}
    assert unlisted <= {name.lower() for name in LOADED}
