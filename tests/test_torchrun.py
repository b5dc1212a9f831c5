"""Trainings of several processes as torchrun starts them: killed, told to stop, out of time, fed with bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]
LENGTH = {
    "batch_size": 4,
    "training.epochs": 2,
    "training.iterations_per_epoch": 12,
    "training.val_iterations_per_epoch": 2,
    "training.checkpoint_minutes": 1e-9,  # after each step
}


class Launcher:
    """torchrun on the unlabelled data set.

    Attributes:
        results: nnUNet_results.
    """

    def __init__(self, results: Path) -> None:
        self.results = results

    def start(self, processes: int, variant: str, *options: str, restarts: int = 0) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        training = ["501", variant, "0", "-tr", "nnUNetTrainerBDFMPretrain", "-p", "BDFMPlans", "-device", "cpu"]
        command = [*launcher, "--max-restarts", str(restarts), "-m", "bdfm_nnunet.train", *training, *options]
        environ = os.environ | {"nnUNet_results": str(self.results), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *command], env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *arguments: Any, code: int = 0, **options: Any) -> str:
        return self.end(self.start(*arguments, **options), code=code)

    def end(self, process: subprocess.Popen[str], *, code: int = 0) -> str:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output[-4000:]
        return output

    def folder(self, variant: str) -> Path:
        name = "Dataset501_BraTS2023GLIUnlabelled"
        return self.results / name / f"nnUNetTrainerBDFMPretrain__BDFMPlans__{variant}" / "fold_0"


@pytest.fixture(scope="module")
def launcher(prepared_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    for variant in ("two", "four", "killed", "stopped", "hours"):
        add_variant(501, variant=variant, settings=LENGTH)
    add_variant(501, variant="refused", settings=LENGTH | {"training.accumulate": 3})
    add_variant(501, variant="broken", settings=LENGTH | {"training.initial_lr": 1e38})
    return Launcher(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="module")
def two(launcher: Launcher) -> dict[str, Any]:
    """The curves of an undisturbed run of two processes."""
    launcher.run(2, "two")
    return _curves(launcher.folder("two"))


def _curves(folder: Path) -> dict[str, Any]:
    curves = json.loads((folder / "pretraining_summary.json").read_text())["curves"]
    return {name: values for name, values in curves.items() if name != "seconds"}


def _step(folder: Path) -> int:
    """Steps of the last checkpoint."""
    path = folder / "checkpoint_latest.pth"
    if not path.is_file():
        return 0
    content = read_checkpoint(path)
    return content.progress["iteration"] if content.progress else 0


def _wait(process: subprocess.Popen[str], arrived: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not arrived():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


def _children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.parametrize(("variant", "processes"), [("two", 2), ("four", 4)])
def test_several_processes_train_as_one(variant: str, processes: int, launcher: Launcher, two: Any) -> None:
    folder = launcher.folder(variant)
    output = "" if variant == "two" else launcher.run(processes, variant)
    curves = _curves(folder)
    assert {len(values) for values in curves.values()} == {2}
    assert curves["val_losses"][1] < curves["val_losses"][0]
    assert output.count("Training done.") == (variant != "two")
    assert sorted(path.name for path in folder.glob("*.pth")) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    assert len(list(folder.glob("training_log*"))) == 1


def test_a_killed_process_restarts_all_from_the_last_checkpoint(launcher: Launcher, two: Any) -> None:
    folder = launcher.folder("killed")
    process = launcher.start(2, "killed", restarts=2)
    _wait(process, lambda: _step(folder) >= 3)
    before = _step(folder)
    os.kill(_children(process)[-1], signal.SIGKILL)
    output = launcher.end(process)
    (found,) = re.findall(r"Continuing after step (\d+) of epoch (\d)", output)
    assert (int(found[1]) - 1) * 12 + int(found[0]) >= before
    assert "Traceback" not in output
    curves = _curves(folder)
    for name, values in two.items():
        assert curves[name] == pytest.approx(values, rel=1e-6), name


def test_told_to_stop_all_save_the_same_step_and_any_number_continues(launcher: Launcher) -> None:
    folder = launcher.folder("stopped")
    process = launcher.start(2, "stopped")
    _wait(process, lambda: _step(folder) >= 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert output.count("Training paused after step") == 1 and "a signal asked for it" in output
    content = read_checkpoint(folder / "checkpoint_latest.pth")
    outputs = [part["outputs"] for part in content.progress["processes"]]
    assert [len(part) for part in outputs] == [content.progress["iteration"]] * 2
    assert outputs[0] != outputs[1]
    assert not (folder / "checkpoint_final.pth").exists()
    launcher.run(4, "stopped", "--c")
    assert {len(values) for values in _curves(folder).values()} == {2}


def test_time_is_up_and_nobody_is_started_anew(launcher: Launcher) -> None:
    output = launcher.run(2, "hours", "--max-hours", "1e-6", restarts=2)
    assert output.count("the time of max_hours is up") == 1
    assert (launcher.folder("hours") / "checkpoint_latest.pth").is_file()


def test_bad_input_of_all_is_one_sentence(launcher: Launcher) -> None:
    output = launcher.run(2, "refused", code=1)
    (line,) = (line for line in output.splitlines() if "bdfm: error:" in line)
    assert "batch of 4 cannot be shared by 2 processes with training.accumulate=3" in line


def test_a_broken_loss_ends_all_in_one_sentence(launcher: Launcher) -> None:
    output = launcher.run(2, "broken", code=1)
    (line,) = (line for line in output.splitlines() if "bdfm: error:" in line)
    found = json.loads((launcher.folder("broken") / "nonfinite_batch.json").read_text())
    assert "nonfinite_batch.json names the cases" in line
    assert {step["rank"] for step in found} <= {0, 1} and all(len(step["keys"]) == 2 for step in found)
