"""A long training that is killed again and again (SIGKILL, which nothing can catch) beside one that nobody disturbs.

Both pre-train the same tiny network on the same small made-up cohort at the same time, one thread each. After 30 to 90
seconds, drawn at random, the one is killed and started again with `--c`. Each writes the loss of every step.

    python benchmarks/soak.py            # 1,000 steps, about ten minutes
    python benchmarks/soak.py --quick    # 200 steps, kills after 20 to 40 seconds
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from harness import FIGURES, Result, Table

DATASET, VARIANT, TRAINER = 501, "soak", "nnUNetTrainerSoak"
VAL_STEPS = 2
# nnU-Net looks for trainers in a folder; this one also writes the loss of each step
SHIM = f"""
import os
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain

class {TRAINER}(nnUNetTrainerBDFMPretrain):
    def train_step(self, batch):
        terms = super().train_step(batch)
        with open(os.environ["SOAK_LOG"], "a") as stream:
            stream.write(f"{{self._step_number}} {{float(terms['loss'])!r}}\\n")
        return terms
"""


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Makes, converts and plans the cohort; the variables that all further commands need."""
    from bdfm_nnunet.data.demo import make_cohort

    make_cohort(folder / "tree", cases=6, seed=11, spacing=4.0, shape=(40, 48, 40), second_visits=1)
    (folder / "plugin").mkdir()
    (folder / "plugin" / "soak_trainer_of_the_benchmark.py").write_text(SHIM, encoding="utf-8")
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    environ = {**os.environ, **{name: str(folder / name) for name in names}, "nnUNet_n_proc_DA": "0"}
    environ |= {"nnUNet_extTrainer": str(folder / "plugin"), "OMP_NUM_THREADS": "1"}
    for name in names:
        (folder / name).mkdir()
    settings = {
        "batch_size": options.batch,
        "training.epochs": options.steps // options.epoch,
        "training.iterations_per_epoch": options.epoch,
        "training.val_iterations_per_epoch": VAL_STEPS,
        "training.checkpoint_minutes": options.interval / 60,
    }
    plan = ["plan", "-d", str(DATASET)]
    changes = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    for command in (
        ["convert", "brats2023-gli", str(folder / "tree"), "-d", str(DATASET), "--unlabelled", "--workers", "1"],
        [*plan, "--gpu-memory", "0.05", "--workers", "1"],
        [*plan, "--variant", VARIANT, *changes],
    ):
        subprocess.run([sys.executable, "-m", "bdfm_nnunet.cli", *command], env=environ, check=True)
    return environ


class Run(threading.Thread):
    """A training from start to end, however often it is killed on the way.

    Attributes:
        seconds: from the first start to the end.
        kills: for each kill the last step written before it.
    """

    def __init__(self, folder: Path, environ: dict[str, str], pauses: tuple[float, float] | None, seed: int) -> None:
        super().__init__()
        self.pauses, self.random = pauses, random.Random(seed)
        self.log = folder / "steps.txt"
        folder.mkdir()
        self.environ = environ | {"nnUNet_results": str(folder / "results"), "SOAK_LOG": str(self.log)}
        self.output = folder / "output.txt"
        self.seconds = 0.0
        self.kills: list[int] = []
        self.code = -1

    def run(self) -> None:
        """Starts, kills and continues."""
        began = time.monotonic()
        arguments = [str(DATASET), VARIANT, "0", "-tr", TRAINER, "-p", "BDFMPlans", "-device", "cpu"]
        command = [sys.executable, "-m", "bdfm_nnunet.train", *arguments]
        with self.output.open("wb") as stream:
            while True:
                more = ["--c"] if self.kills else []
                process = subprocess.Popen([*command, *more], env=self.environ, stdout=stream, stderr=stream)
                pause = None if self.pauses is None else self.random.uniform(*self.pauses)
                try:
                    self.code = process.wait(pause)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    self.kills.append(max(self.steps(), default=(0, 0.0))[0])
        self.seconds = time.monotonic() - began

    def steps(self) -> list[tuple[int, float]]:
        """(step, loss) in the order in which they were written; a line that the kill has cut is left out."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text().split("\n")[:-1]
        return [(int(line.split()[0]), float(line.split()[1])) for line in lines]

    def lost(self) -> list[int]:
        """For each kill how many steps were done again."""
        steps = [step for step, _ in self.steps()]
        starts = [after for before, after in zip([0, *steps], steps) if after != before + 1]
        ends = [before for before, after in zip([0, *steps], steps) if after != before + 1]
        return [end - start + 1 for start, end in zip(starts, ends)]


def compare(quiet: Run, killed: Run, options: argparse.Namespace) -> Result:
    """What the two have in common and what it cost."""
    expected, found = dict(quiet.steps()), dict(killed.steps())
    again = [abs(loss - expected[step]) for step, loss in killed.steps()]
    difference = max(again)
    lost = killed.lost()
    per_second = len(expected) / quiet.seconds
    bound = options.interval * per_second + 2
    rows = [
        ["steps of the loss curve", str(len(expected)), str(len(found))],
        ["kills", "0", str(len(killed.kills))],
        ["steps done again", "0", f"{sum(lost)} (at most {max(lost, default=0)} after one kill)"],
        ["seconds", f"{quiet.seconds:.0f}", f"{killed.seconds:.0f} ({killed.seconds / quiet.seconds:.2f} times)"],
        ["largest difference of the loss in any step", "", f"{difference:.3g}"],
        ["loss of the last step", f"{expected[max(expected)]:.6f}", f"{found[max(found)]:.6f}"],
    ]
    same = difference == 0 and expected.keys() == found.keys() and killed.code == 0
    result = Result(
        "Soak: killed again and again",
        "The same pre-training twice at the same time, one thread each: undisturbed, and killed by SIGKILL after "
        f"{options.pause[0]:g} to {options.pause[1]:g} s again and again, then started with `--c`. Checkpoints every "
        f"{options.interval:g} s (the default is 10 minutes), so about {bound:.0f} steps can be lost at once. The time "
        "includes the start of Python and nnU-Net after each kill.",
        settings=vars(options),
        packages=("torch", "numpy", "nnunetv2"),
        tables=[Table("", ["", "undisturbed", "killed"], rows)],
        figures=[("soak.png", "Loss of each step of both runs (they lie on one another); lines where one was killed")],
        raw={"kills": killed.kills, "lost": lost, "seconds": [quiet.seconds, killed.seconds], "difference": difference},
    )
    result.goals = [
        (
            f"{options.steps:,} steps with kill -9 every {options.pause[0]:g} to {options.pause[1]:g} s end with the "
            "loss curve of an undisturbed run",
            f"{len(killed.kills)} kills, largest difference {difference:.3g}",
            same and len(killed.kills) > 0,
        ),
        ("a kill costs no more than the interval between checkpoints", f"{max(lost, default=0)} steps", max(lost, default=0) <= 2 * bound),
    ]  # fmt: skip
    return result


def draw(quiet: Run, killed: Run) -> None:
    """Both curves."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    styles: tuple[dict[str, Any], ...] = ({"lw": 2.5, "color": "0.7"}, {"lw": 0.7, "color": "tab:blue"})
    for run, name, style in ((quiet, "undisturbed", styles[0]), (killed, "killed", styles[1])):
        curve = dict(run.steps())
        axes.plot(list(curve), list(curve.values()), label=name, **style)
    for step in killed.kills:
        axes.axvline(step, color="tab:red", lw=0.6)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(loc="upper right")
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "soak.png", dpi=110)


def main() -> int:
    """Runs both at once; the exit code tells whether the curves are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, shorter pauses")
    parser.add_argument("--steps", type=int, help="steps of each run")
    parser.add_argument("--epoch", type=int, default=100, help="steps of an epoch")
    parser.add_argument("--batch", type=int, default=10, help="samples of a step")
    parser.add_argument("--interval", type=float, default=6, help="seconds between checkpoints")
    parser.add_argument("--pause", type=float, nargs=2, metavar=("LOW", "HIGH"), help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the pauses")
    options = parser.parse_args()
    options.steps = options.steps or (200 if options.quick else 1000)
    options.pause = tuple(options.pause or ((20, 40) if options.quick else (30, 90)))
    options.interval = min(options.interval, 3) if options.quick else options.interval
    with tempfile.TemporaryDirectory() as name:
        environ = prepare(Path(name), options)
        quiet = Run(Path(name) / "quiet", environ, None, options.seed)
        killed = Run(Path(name) / "killed", environ, options.pause, options.seed)
        for run in (quiet, killed):
            run.start()
        for run in (quiet, killed):
            run.join()
            if run.code:
                print(run.output.read_text(errors="replace")[-3000:])
                return 1
        draw(quiet, killed)
        result = compare(quiet, killed, options)
        result.write()
    return 0 if all(reached for _, _, reached in result.goals) else 1


if __name__ == "__main__":
    sys.exit(main())
