"""A training on a disk that is full to the very end, in a process of its own: it warns, tells of it, and goes on."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.files import is_unfinished, read_json
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="limits a process from outside")]
LENGTH = {
    "training.epochs": 2,
    "training.iterations_per_epoch": 12,
    "training.val_iterations_per_epoch": 2,
    "training.checkpoint_minutes": 1e-9,  # after each step
}


class Training:
    """`bdfm train` of the unlabelled data set.

    Attributes:
        results: nnUNet_results.
    """

    def __init__(self, results: Path) -> None:
        self.results = results

    def start(self, *options: str) -> subprocess.Popen[str]:
        words = ["501", "full_disk", "0", "-tr", "nnUNetTrainerBDFMPretrain", "-p", "BDFMPlans", "-device", "cpu"]
        environ = os.environ | {"nnUNet_results": str(self.results), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bdfm_nnunet.train", *words, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=environ, text=True, **pipes)

    def run(self, *options: str, code: int = 0) -> str:
        return self.end(self.start(*options), code=code)

    def end(self, process: subprocess.Popen[str], *, code: int = 0) -> str:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == code, output[-3000:]
        return output

    @property
    def folder(self) -> Path:
        name = "nnUNetTrainerBDFMPretrain__BDFMPlans__full_disk"
        return self.results / "Dataset501_BraTS2023GLIUnlabelled" / name / "fold_0"


class SmallDisk:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.folder]
        return shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode

    def fill(self) -> None:
        with (self.folder / "filler").open("ab", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(4096))

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def remove(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    """A small disk for tmp_path / "nnUNet_results", or None where this account may not mount one."""
    folder = tmp_path / "nnUNet_results"
    folder.mkdir()
    disk = SmallDisk(folder)
    if not disk.mount():
        yield None
        return
    yield disk
    disk.remove()


@pytest.fixture(scope="module")
def undisturbed(prepared_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A finished training on a disk with room."""
    add_variant(501, variant="full_disk", settings=LENGTH)
    training = Training(tmp_path_factory.mktemp("undisturbed"))
    training.run()
    return training


def _curves(training: Training) -> dict[str, Any]:
    curves = read_json(training.folder / "pretraining_summary.json")["curves"]
    return {name: values for name, values in curves.items() if name != "seconds"}


def _stop_between_checkpoints(process: subprocess.Popen[str], folder: Path) -> None:
    """Stops it where it has some checkpoints, and none is being written."""
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint_previous.pth").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    while True:
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        if not any(is_unfinished(path.name) for path in folder.iterdir()):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def test_a_disk_that_fills_up_costs_the_last_steps_alone(
    disk: SmallDisk | None, undisturbed: Training, tmp_path: Path
) -> None:
    training = Training(tmp_path / "nnUNet_results")
    process = training.start()
    _stop_between_checkpoints(process, training.folder)
    if disk is None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    else:
        disk.fill()
    before = read_checkpoint(training.folder / "checkpoint_latest.pth").progress["iteration"]
    process.send_signal(signal.SIGCONT)
    output = training.end(process, code=2)
    assert output.count("WARNING: training goes on and tries again later") >= 3
    (line,) = (line for line in output.splitlines() if "bdfm: error:" in line)
    assert "cannot write" in line and "checkpoint_final.pth" in line and "and continue with --c" in line
    assert "Traceback" not in output
    left = {path.name for path in training.folder.glob("*.pth")}
    assert left == {"checkpoint_latest.pth", "checkpoint_previous.pth"}
    assert all(read_checkpoint(training.folder / name).weights for name in left)
    assert read_checkpoint(training.folder / "checkpoint_latest.pth").progress["iteration"] == before
    assert not [path for path in training.results.rglob("*") if is_unfinished(path.name)]
    if disk is not None:
        disk.free()
    training.run("--c")
    assert _curves(training) == _curves(undisturbed)
    ours, theirs = (read_checkpoint(run.folder / "checkpoint_final.pth").weights for run in (training, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_that_starts_on_a_full_disk_is_refused(disk: SmallDisk | None, undisturbed: Training) -> None:
    if disk is None:
        pytest.skip("this account may not mount a file system")
    disk.fill()
    output = Training(disk.folder).run(code=2)
    (line,) = (line for line in output.splitlines() if "bdfm: error:" in line)
    assert "cannot write" in line and "free some space there" in line and "Traceback" not in output
