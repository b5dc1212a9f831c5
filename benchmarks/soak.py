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

import harness
from harness import FIGURES, Result, Table, prose

DATASET, VARIANT, TRAINER = 501, "soak", "nnUNetTrainerSoak"
VAL_STEPS = 2
WRITING = 2.0
"""Seconds that a step, a checkpoint and the reports of an epoch may take on a busy machine."""
# nnU-Net looks for trainers in a folder; this one also writes the loss of each step
SHIM = f"""
import os, time
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain

class {TRAINER}(nnUNetTrainerBDFMPretrain):
    def train_step(self, batch):
        terms = super().train_step(batch)
        with open(os.environ["SOAK_LOG"], "a") as stream:
            stream.write(f"{{self.run.step_number}} {{float(terms['loss'])!r}} {{time.time()}}\\n")
        return terms
"""


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Make, convert and plan the cohort, and return the variables that all further commands need."""
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
        kills: for each kill the last step before it.
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
        """Start, kill and continue."""
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
                    self.kills.append(self.steps()[-1][0] if self.steps() else 0)
        self.seconds = time.monotonic() - began

    def steps(self) -> list[tuple[int, float, float]]:
        """Return (step, loss, time) in the order in which they were written, without a line that the kill has cut."""
        if not self.log.is_file():
            return []
        lines = (line.split() for line in self.log.read_text().split("\n")[:-1])
        return [(int(step), float(loss), float(when)) for step, loss, when in lines]

    def curve(self) -> dict[int, float]:
        """Map each step to its loss, the last one if a step was repeated."""
        return {step: loss for step, loss, _ in self.steps()}

    def lost(self) -> list[tuple[int, float]]:
        """Return for each kill that undid steps their number, and the seconds from the last kept step to the last."""
        steps = [(0, 0.0, self.steps()[0][2]), *self.steps()]
        found = []
        for place in range(1, len(steps)):
            (last, _, ended), (again, _, _) = steps[place - 1], steps[place]
            if again != last + 1:
                kept = max(when for step, _, when in steps[:place] if step == again - 1)
                found.append((last - again + 1, ended - kept))
        return found


def compare(pairs: list[tuple[Run, Run]], options: argparse.Namespace) -> Result:
    """Compare undisturbed and killed runs, and tell what the kills cost."""
    table = Table("", ["round", "kills", "steps done again", "most after one kill", "time of the undisturbed run",
                       "time of the killed one", "largest difference of a loss", "loss of the last step"])  # fmt: skip
    result = Result(
        "Soak: killed again and again",
        prose(__doc__)
        + f" Checkpoints are written every {options.interval:g} s (the default is 10 minutes). The times include the "
        "start of Python and nnU-Net after each kill.",
        settings=vars(options),
        packages=("torch", "numpy", "nnunetv2"),
        tables=[table],
        figures=[("soak.png", "Loss of each step of both runs (they lie on one another); lines where one was killed")],
    )
    kills, difference, worst, worst_seconds = 0, 0.0, 0, 0.0
    for number, (quiet, killed) in enumerate(pairs, start=1):
        expected, lost = quiet.curve(), killed.lost()
        apart = max(abs(loss - expected[step]) for step, loss, _ in killed.steps())
        apart = apart if expected.keys() == killed.curve().keys() else float("inf")
        most, seconds = max((steps for steps, _ in lost), default=0), max((s for _, s in lost), default=0.0)
        table.rows.append([
            str(number), str(len(killed.kills)), str(sum(steps for steps, _ in lost)), f"{most} ({seconds:.1f} s)",
            f"{quiet.seconds:.0f} s", f"{killed.seconds:.0f} s ({killed.seconds / quiet.seconds:.2f} times)",
            f"{apart:.3g}", f"{expected[max(expected)]:.6f}",
        ])  # fmt: skip
        kills, difference = kills + len(killed.kills), max(difference, apart)
        worst, worst_seconds = max(worst, most), max(worst_seconds, seconds)
        result.raw[str(number)] = {"kills": killed.kills, "lost": lost, "seconds": [quiet.seconds, killed.seconds]}
    low, high = options.pause
    curve = f"{options.steps:,} steps with kill -9 every {low:g} to {high:g} s end with the undisturbed loss curve"
    measured = f"{kills} kills, largest difference of a loss {difference:.3g}"
    kept = f"a kill costs no more than the interval between checkpoints ({options.interval:g} s) and writing one"
    result.goals = [
        (curve, measured, difference == 0 and kills > 0),
        (kept, f"at most {worst_seconds:.1f} s, {worst} steps", worst_seconds <= options.interval + WRITING),
    ]
    return result


def draw(quiet: Run, killed: Run) -> None:
    """Draw both curves."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    styles: tuple[dict[str, Any], ...] = ({"lw": 2.5, "color": "0.7"}, {"lw": 0.7, "color": "tab:blue"})
    for run, name, style in ((quiet, "undisturbed", styles[0]), (killed, "killed", styles[1])):
        curve = run.curve()
        axes.plot(list(curve), list(curve.values()), label=name, **style)
    for step in killed.kills:
        axes.axvline(step, color="tab:red", lw=0.6)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(loc="upper right")
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "soak.png", dpi=110)


def main() -> int:
    """Run both at once; the exit code tells whether the curves are the same."""
    parser = harness.options(__doc__, rounds=1)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run")
    parser.add_argument("--epoch", type=int, default=100, help="steps of an epoch")
    parser.add_argument("--batch", type=int, default=3, help="samples of a step")
    parser.add_argument("--interval", type=float, default=6, help="seconds between checkpoints")
    parser.add_argument("--pause", type=float, nargs=2, default=(30, 90), metavar=("LOW", "HIGH"), help="until a kill")
    options = harness.parse(parser, quick={"steps": 200, "interval": 3, "pause": (20, 40)})
    with tempfile.TemporaryDirectory() as name:
        environ = prepare(Path(name), options)
        pairs = []
        for number in range(options.rounds):
            quiet = Run(Path(name) / f"quiet{number}", environ, None, number)
            killed = Run(Path(name) / f"killed{number}", environ, options.pause, number)
            pairs.append((quiet, killed))
            for run in (quiet, killed):
                run.start()
            for run in (quiet, killed):
                run.join()
                if run.code:
                    print(run.output.read_text(errors="replace")[-3000:])
                    return 1
        if not options.quick and options.json is None:
            draw(*pairs[0])
        result = compare(pairs, options)
        result.write(options.json)
    return 0 if all(reached for _, _, reached in result.goals) else 1


if __name__ == "__main__":
    sys.exit(main())
