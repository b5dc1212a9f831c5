"""Trainings of two processes that meet at MASTER_ADDR, as schedulers start them: they differ, or one is stopped."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared
from tests.process_watching import has_ended

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]
LENGTH = {
    "batch_size": 2,
    "training.epochs": 2,
    "training.iterations_per_epoch": 500,
    "training.val_iterations_per_epoch": 1,
    "training.checkpoint_minutes": 1e-9,  # after each step
    "training.workers": 1,
}
_NAME = "Dataset501_BraTS2023GLIUnlabelled"

_BEGIN = """
import functools, socket, sys
import bdfm_nnunet
from bdfm_nnunet.training import heartbeat
heartbeat.Heartbeat = functools.partial(heartbeat.Heartbeat, interval=0.5, patience=8.0)
"""
_OTHER_MACHINE = 'socket.gethostname = lambda: "another"\n'
_OTHER_CODE = "bdfm_nnunet.__path__.append({folder!r})\n"
_TRAIN = "from bdfm_nnunet.train import main\nsys.exit(main(sys.argv[1:]))\n"


class Pair:
    """Two processes of one training.

    Attributes:
        results: nnUNet_results.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, rank: int, variant: str, *, script: str = "", **variables: str) -> None:
        words = ["501", variant, "0", "-tr", "nnUNetTrainerBDFMPretrain", "-p", "BDFMPlans", "-device", "cpu"]
        environ = os.environ | {
            "nnUNet_results": str(self.results), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": str(rank),
            "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(self.port),
        }  # fmt: skip
        for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
            environ.pop(name, None)
        command = [sys.executable, "-c", _BEGIN + script + _TRAIN, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.processes.append(subprocess.Popen(command, env=environ | variables, text=True, **pipes))

    def end(self) -> list[tuple[int, str]]:
        """Exit codes and what was said on stderr."""
        found = []
        for process in self.processes:
            _, text = process.communicate(timeout=240)
            found.append((process.returncode, text))
        return found

    def folder(self, variant: str) -> Path:
        return self.results / _NAME / f"nnUNetTrainerBDFMPretrain__BDFMPlans__{variant}" / "fold_0"


@pytest.fixture(scope="module")
def cohort(prepared_of_module: Prepared) -> Prepared:
    add_variant(501, variant="ranks", settings=LENGTH)
    return prepared_of_module


@pytest.fixture
def pair(cohort: Prepared, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path / "nnUNet_results")
    pair.results.mkdir()
    yield pair
    for process in pair.processes:
        process.kill()
        process.communicate()


def _other_machine(cohort: Prepared, root: Path, change: str) -> dict[str, str]:
    """nnUNet_preprocessed of its own for the second process, where one thing is different."""
    source = cohort.folder("nnUNet_preprocessed", 501)
    folder = root / "nnUNet_preprocessed" / source.name
    shutil.copytree(source, folder)
    path = folder / {"settings": "BDFMPlans.json", "splits": "splits_final.json"}[change]
    content = json.loads(path.read_text())
    if change == "settings":
        content["configurations"]["ranks"]["training"]["seed"] = 5
    else:
        content[0]["train"].append(content[0]["val"].pop())
    path.write_text(json.dumps(content))
    return {"nnUNet_preprocessed": str(folder.parent)}


@pytest.mark.parametrize(
    ("change", "what"),
    [("settings", "plans"), ("splits", "splits"), ("code", "versions of the code")],
)
def test_processes_that_differ_refuse_on_every_machine(
    change: str, what: str, pair: Pair, cohort: Prepared, tmp_path: Path
) -> None:
    script, variables = _OTHER_MACHINE, {}
    if change == "code":
        (tmp_path / "newer").mkdir()
        (tmp_path / "newer" / "more.py").write_text("A = 1\n")
        script += _OTHER_CODE.format(folder=str(tmp_path / "newer"))
    else:
        variables = _other_machine(cohort, tmp_path, change)
    pair.start(0, "ranks")
    pair.start(1, "ranks", script=script, **variables)
    for code, text in pair.end():
        (line,) = (line for line in text.splitlines() if line.startswith("bdfm: error:"))
        assert f"process 1 of this training has other {what} than process 0: start all" in line
        assert code == 2 and "Traceback" not in text
    assert not list(pair.folder("ranks").glob("*.pth"))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stopped_in_mid_training_ends_the_other(victim: int, pair: Pair) -> None:
    """The first process also holds the store where they have met, so its silence is that of the store."""
    for rank in (0, 1):
        pair.start(rank, "ranks")
    latest = pair.folder("ranks") / "checkpoint_latest.pth"
    deadline = time.monotonic() + 200
    while not (latest.is_file() and read_checkpoint(latest).progress["iteration"] >= 3):
        assert not any(process.poll() for process in pair.processes) and time.monotonic() < deadline
        time.sleep(0.2)
    stopped, other = pair.processes[victim], pair.processes[1 - victim]
    loaders = _children(other.pid)
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    _, text = other.communicate(timeout=60)
    took = time.monotonic() - began
    silent = "process 1 of this training has given no sign of life" if victim else "the store where the processes"
    (line,) = (line for line in text.splitlines() if line.startswith("bdfm: error:"))
    assert silent in line and "continue with --c" in line
    assert other.returncode == 1 and 4 < took < 45
    assert loaders and all(has_ended(pid) for pid in loaders)
    assert read_checkpoint(latest).progress["iteration"] >= 3


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
