"""Whether two commits give the same results on a small made-up cohort: the test of a change that must not alter any.

    python benchmarks/compare_commits.py COMMIT [OTHER]      # OTHER is HEAD by default

Each commit's own code converts, plans, pre-trains, fine-tunes, predicts and evaluates, with one thread and the packages
of this interpreter. Manifests, plans, preprocessed cases, checkpoints (tensor by tensor, and their curves),
segmentations and scores are then compared to the bit; times, places and versions are left out. The exit code is 1
where anything differs. It takes some minutes a commit.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from differences import Change, differences

REPOSITORY = Path(__file__).resolve().parents[1]
ROOT_FOLDERS = ("trainers", "plans", "dataset_conversion")
"""They are installed as parts of bdfm_nnunet."""
RELEASE, PLANS, VARIANT, FOLD = "brats2023-gli", "BDFMPlans", "short", "0"
UNLABELLED, LABELLED, TEST = 901, 902, 903
COHORTS = {UNLABELLED: ("unlabelled", 5), LABELLED: ("labelled", 5), TEST: ("test", 2)}
LENGTHS = {"epochs": 2, "iterations_per_epoch": 4, "val_iterations_per_epoch": 2, "initial_lr": 0.001}
PRETRAINER, TRAINER, WEIGHTS = "nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM", "pretrained.pth"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SHOWN = 8


def lay_out(commit: str, folder: Path) -> Path:
    """Write the files of a commit under a folder, as they are when installed.

    Returns:
        The folder for PYTHONPATH.
    """
    packed = subprocess.run(["git", "-C", str(REPOSITORY), "archive", commit], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder / "tree", filter="data")
    package = folder / "installed" / "bdfm_nnunet"
    package.mkdir(parents=True)
    parts = [*(folder / "tree" / "bdfm_nnunet").iterdir(), *(folder / "tree" / name for name in ROOT_FOLDERS)]
    for part in parts:
        (package / part.name).symlink_to(part)
    return package.parent


def make_cohorts(folder: Path) -> None:
    """Write the made-up cohorts that all commits convert."""
    from bdfm_nnunet.data.demo import make_cohort

    first = 0
    for name, cases in COHORTS.values():
        labelled = name != "unlabelled"
        size = {"spacing": 4.0, "shape": (40, 48, 40)}
        make_cohort(
            folder / name, cases=cases, seed=2023, labelled=labelled, first_patient=first, progress=False, **size
        )
        first += cases


def commands(folder: Path, cohorts: Path) -> Iterator[list[str]]:
    """Yield the arguments of `bdfm` for each step whose results go to a folder, once the step before is done."""
    unlabelled, labelled = (["-d", str(number), "-p", PLANS] for number in (UNLABELLED, LABELLED))
    lengths = [text for name, value in LENGTHS.items() for text in ("--set", f"training.{name}={value}")]
    run, one = [VARIANT, FOLD, "-p", PLANS, "-device", "cpu"], ["--workers", "1"]
    for number, (name, _) in COHORTS.items():
        mode = ["--unlabelled"] if name == "unlabelled" else []
        yield ["convert", RELEASE, str(cohorts / name), "-d", str(number), *mode, *one]
    yield ["plan", *unlabelled, "--gpu-memory", "0.5", *one]
    yield ["plan", *unlabelled, "--variant", VARIANT, *lengths]
    yield ["train", str(UNLABELLED), *run, "-tr", PRETRAINER]
    weights = next(folder.glob(f"nnUNet_results/*/{PRETRAINER}*/fold_{FOLD}/checkpoint_final.pth"))
    (folder / WEIGHTS).symlink_to(weights)
    yield ["plan", *labelled, "--weights", str(weights), *one]
    yield ["plan", *labelled, "--variant", VARIANT, *lengths]
    yield ["train", str(LABELLED), *run, "-tr", TRAINER]
    test, predictions = next(folder.glob(f"nnUNet_raw/Dataset{TEST}_*")), str(folder / "predictions")
    model = [*labelled, "-c", VARIANT, "-f", FOLD, "-tr", TRAINER, "--disable_tta", "-device", "cpu"]
    yield ["predict", "-i", str(test / "imagesTr"), "-o", predictions, *model, "-npp", "1", "-nps", "1"]
    scores = str(folder / "scores" / "test.json")
    yield ["evaluate", str(test / "labelsTr"), predictions, "--release", RELEASE, "-o", scores, *one]


def run_commit(commit: str, folder: Path, cohorts: Path) -> float:
    """Make the results of a commit in a folder.

    Returns:
        The seconds it took.
    """
    began = time.monotonic()
    code = lay_out(commit, folder / "code")
    results = folder / "results"
    (results / "scores").mkdir(parents=True)
    environ = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "MPLBACKEND": "Agg"}
    environ |= {name: str(results / name) for name in FOLDERS} | {"BDFM_WEIGHTS": str(results / WEIGHTS)}
    for name in FOLDERS:
        (results / name).mkdir()
    for arguments in commands(results, cohorts):
        _run(arguments, environ, folder / "log.txt")
    return time.monotonic() - began


def _run(arguments: list[str], environ: dict[str, str], log: Path) -> None:
    began = time.monotonic()
    with log.open("a", encoding="utf-8") as stream:
        command = [sys.executable, "-m", "bdfm_nnunet.cli", *arguments]
        done = subprocess.run(command, env=environ, stdout=stream, stderr=subprocess.STDOUT, cwd=log.parent)
    print(f"  bdfm {arguments[0]}: {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        sys.exit(f"`bdfm {' '.join(arguments)}` failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def report(found: dict[str, tuple[int, list[Change]]]) -> int:
    """Print what differs; return the exit code."""
    for kind, (files, changes) in found.items():
        print(f"{kind}: {files} files, {f'{len(changes)} differences' if changes else 'the same'}")
        for place, what in changes[:SHOWN]:
            print(f"  {place} {what}")
        if len(changes) > SHOWN:
            print(f"  and {len(changes) - SHOWN} more")
    return int(any(changes for _, changes in found.values()))


def main() -> int:
    """Compare the commits that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="whatever git takes for a commit")
    parser.add_argument("other", nargs="?", default="HEAD", help="the other one; HEAD by default")
    parser.add_argument("--out", type=Path, help="a new folder that keeps all results; by default they are removed")
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True)
    with nullcontext(options.out) if options.out else tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        make_cohorts(folder / "cohorts")
        for place, commit in (("first", options.commit), ("second", options.other)):
            print(f"{commit}:", flush=True)
            print(f"  {run_commit(commit, folder / place, folder / 'cohorts'):.0f} s in all", flush=True)
        return report(differences(folder / "first" / "results", folder / "second" / "results"))


if __name__ == "__main__":
    sys.exit(main())
