"""From a made-up download of BraTS 2026 to a checked container: the minutes of each step, with five tiny folds.

Twelve made-up cases in the layout and under the names of a task are converted and planned, five folds are trained for a
moment, `bdfm finish` chooses, tunes and predicts two more cases, packs the archive and writes the container, and `bdfm
container check` attacks it. It shows that the way is whole and what its steps cost beside the networks, not what scores
are to be expected.

    python benchmarks/five_folds.py [--quick] [--task goat]
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bdfm_nnunet.data.demo import make_cohort
from harness import Result, Table, options, parse, prose

NAMES = {"goat": "BraTS-GoAT-{:05d}", "met": "BraTS-MET-{:05d}-000"}
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
GOAL_MINUTES = 15
FOLDS = ("0", "1", "2", "3", "4")


def write_download(folder: Path, task: str, *, cases: int, seed: int, first: int, labelled: bool) -> None:
    """Write cases under the names of a task."""
    made = make_cohort(folder.parent / f"made{seed}", cases=cases, seed=seed, spacing=4.0, shape=(40, 48, 40),
                       labelled=labelled, first_patient=first)  # fmt: skip
    for number, case in enumerate(made):
        name = NAMES[task].format(first + number + 1)
        (folder / name).mkdir(parents=True)
        for path in case.glob("*.nii.gz"):
            path.rename(folder / name / path.name.replace(case.name, name))


def steps(root: Path, task: str) -> dict[str, list[list[str]]]:
    """Return the commands of each step."""
    release, model = f"brats2026-{task}", ["-d", "501", "-c", "tiny", "-tr", "nnUNetTrainerBDFM", "-p", "BDFMPlans"]
    plan = ["plan", "-d", "501", "--variant", "tiny", "--set", "training.epochs=2", "--set",
            "training.iterations_per_epoch=4", "--set", "training.val_iterations_per_epoch=1"]  # fmt: skip
    train = [["train", "501", "tiny", fold, "-tr", "nnUNetTrainerBDFM", "-p", "BDFMPlans", "-device", "cpu"]
             for fold in FOLDS]  # fmt: skip
    finish = ["finish", *model, "-f", *FOLDS, "--release", release, "--metrics", "brats-2026", "-i", str(root / "new"),
              "--submission", str(root / "submission.zip"), "--container", release, "-o", str(root / "finished"),
              "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "--workers", "2"]  # fmt: skip
    return {
        "convert": [["convert", release, str(root / "download"), "-d", "501"]],
        "plan": [["plan", "-d", "501", "--network", "plain", "--gpu-memory", "0.05", "--workers", "2"], plan],
        "five trainings": train,
        "finish": [finish],
        "container check": [["container", "check", str(root / "finished" / "container")]],
    }


def run(command: list[str], root: Path) -> str:
    """Run a command of `bdfm` and return what it says."""
    environment = os.environ | {name: str(root / name) for name in FOLDERS} | {"nnUNet_n_proc_DA": "0"}
    done = subprocess.run([str(Path(sys.executable).parent / "bdfm"), *command], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if not line.endswith("| pass |")]
        raise RuntimeError("\n".join([f"bdfm {command[0]} ended with {done.returncode}:", *said[-40:]]))
    return done.stdout


def main() -> None:
    """Run all steps and write benchmarks/results/five_folds.json."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--task", choices=NAMES, default="goat", help="of BraTS 2026 (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=12, help="cases of the download (default: %(default)s)")
    settings = parse(parser, quick={"cases": 10})
    table = Table("Minutes of each step", ["step", "minutes"])
    said = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in FOLDERS:
            (root / folder).mkdir()
        write_download(root / "download", settings.task, cases=settings.cases, seed=3, first=0, labelled=True)
        write_download(root / "more", settings.task, cases=2, seed=4, first=900, labelled=False)
        (root / "new").mkdir()
        for path in (root / "more").glob("*/*.nii.gz"):
            channel = ("t1n", "t1c", "t2w", "t2f").index(path.name.rpartition("-")[2].removesuffix(".nii.gz"))
            path.rename(root / "new" / f"{path.parent.name}_{channel:04d}.nii.gz")
        begun = time.monotonic()
        for step, commands in steps(root, settings.task).items():
            start = time.monotonic()
            said[step] = "".join(run(command, root) for command in commands)
            table.rows.append([step, f"{(time.monotonic() - start) / 60:.1f}"])
            print(f"{step}: {table.rows[-1][1]} min", flush=True)
        minutes = (time.monotonic() - begun) / 60
    print(
        "\n".join(line for line in said["finish"].splitlines() if re.match(r"(chosen|mean Dice|temperature|/)", line))
    )
    print("\n".join(said["container check"].splitlines()[-3:]))
    result = Result(
        title="From a download to a checked container", about=prose(__doc__), settings=vars(settings),
        packages=("torch", "numpy", "nnunetv2"), tables=[table], raw={"minutes": minutes},
        goals=[(f"all steps in less than {GOAL_MINUTES} minutes on 2 cores", f"{minutes:.1f}", minutes < GOAL_MINUTES)],
    )  # fmt: skip
    result.write(settings.json)


if __name__ == "__main__":
    main()
