"""The validation of whole cases with real processes: told to stop, its workers killed, on a full disk."""

import math
import multiprocessing
import operator
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.plans import add_variant
from bdfm_nnunet.prediction.case_quality import QUALITY_FILE
from bdfm_nnunet.trainers import nnUNetTrainerBDFM
from bdfm_nnunet.training.final_validation import ValidationPool
from bdfm_nnunet.training.signals import TrainingPaused
from tests.conftest import Prepared, threads_for_spawn
from tests.process_watching import descendants, has_ended, is_alive, until
from tests.training.trainings import SHORT, checkpoint, make_trainer

LENGTH = {"training.epochs": 1, "training.iterations_per_epoch": 1, "training.val_iterations_per_epoch": 1}


# ------------------------------------------------------------------------------------------------------- the pool


def test_results_come_in_order_and_tensors_travel_as_arrays() -> None:
    with ValidationPool(2) as pool:
        pending = pool.starmap_async(type, [(torch.ones(2),)])
        assert pool.starmap(operator.add, [(1, 2), (3, 4), (5, 6)]) == [3, 7, 11]
        assert pending.get() == [np.ndarray] and pending.ready()
        assert len(pool._pool) == 2 and all(worker.is_alive() for worker in pool._pool)
        with pytest.raises(ValueError, match="math domain"):
            pool.starmap(math.sqrt, [(-1.0,)])


@pytest.mark.parametrize("asked", ["result", "alive"])
def test_a_killed_worker_is_a_sentence(asked: str) -> None:
    """Whether nnU-Net waits for the result or asks whether the workers live, as it does between two cases."""
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=r"ended one of the 2 worker processes.* nnUNet_def_n_proc .* --val"),
        ValidationPool(2) as pool,
    ):
        results = pool.starmap_async(signal.raise_signal, [(signal.SIGKILL,)])
        if asked == "alive":
            assert until(results.ready)
            all(worker.is_alive() for worker in pool._pool)
        results.get()
    assert time.monotonic() - began < 20
    assert not any(process.is_alive() for process in pool._context.processes)


def test_a_block_that_is_left_ends_the_workers_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(TrainingPaused), ValidationPool(2) as pool:
        pool.starmap_async(time.sleep, [(100.0,), (100.0,)])
        time.sleep(1)
        raise TrainingPaused("paused", set())
    assert time.monotonic() - began < 20
    assert len(pool._context.processes) == 2
    assert not any(process.is_alive() for process in pool._context.processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_to_a_whole_job_do_not_reach_the_workers(number: signal.Signals) -> None:
    with ValidationPool(1) as pool:
        results = pool.starmap_async(os.getpid, [()])
        (worker,) = pool._context.processes
        assert worker.pid is not None
        os.kill(worker.pid, number)  # while it starts
        assert results.get() == [worker.pid]
        os.kill(worker.pid, number)
        assert pool.starmap(os.getpid, [()]) == [worker.pid]


# ------------------------------------------------------------------------------------------------- of a trainer here


def _trained(prepared: Prepared, variant: str) -> Any:
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, LENGTH)
    trainer.run_training()
    trainer.inference_allowed_mirroring_axes = None  # eight times as fast
    return trainer


def _folder(trainer: Any) -> Path:
    return Path(trainer.output_folder) / "validation"


@pytest.mark.slow
def test_files_and_scores_are_those_of_nnunets_own_pools(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trained(prepared, "same")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", threads_for_spawn)
        nnUNetTrainer.perform_actual_validation(trainer, True)
    theirs = {path.name: path.read_bytes() for path in _folder(trainer).iterdir()}
    for name in theirs:
        (_folder(trainer) / name).unlink()
    (_folder(trainer) / f".{os.getpid()}.partial.x.nii.gz").touch()  # nnU-Net would score it
    trainer.perform_actual_validation(True)
    ours = {path.name: path.read_bytes() for path in _folder(trainer).iterdir()}
    assert sorted(ours) == sorted(theirs) and "summary.json" in ours
    for name, content in theirs.items():
        if name.endswith((".json", ".pkl")):
            assert ours[name] == content, name
    assert any(name.endswith(".nii.gz") for name in ours)
    left = read_json(_folder(trainer).parent / QUALITY_FILE)["cases"]
    assert {*left} == {name.removesuffix(".nii.gz") for name in ours if name.endswith(".nii.gz")}
    assert all(0 <= case["expected_dice"] <= 1 for case in left.values())


def test_a_signal_after_the_last_step_is_heard_before_the_validation(prepared: Prepared) -> None:
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "late", LENGTH)
    on_train_end = trainer.on_train_end

    def ending() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        on_train_end()

    trainer.on_train_end = ending
    trainer.run_training()
    with pytest.raises(TrainingPaused) as paused:
        trainer.perform_actual_validation()
    assert paused.value.code == 75 and "--val" in paused.value.message
    assert checkpoint(trainer).is_file() and not _folder(trainer).exists()


# ----------------------------------------------------------------------------------------------- the whole command


class Command:
    """`bdfm train` of the labelled data set, in a session of its own.

    Attributes:
        results: nnUNet_results.
    """

    def __init__(self, results: Path) -> None:
        self.results = results

    def start(self, *options: str) -> subprocess.Popen[str]:
        words = ["502", "validated", "0", "-tr", "nnUNetTrainerBDFM", "-p", "BDFMPlans", "-device", "cpu", *options]
        environ = os.environ | {
            "nnUNet_results": str(self.results), "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": "1",
            "BDFM_WEIGHTS": "none",
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "bdfm_nnunet.train", *words],
            env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        (folder,) = self.results.glob("*/nnUNetTrainerBDFM__BDFMPlans__validated/fold_0")
        return folder


@pytest.fixture(scope="module")
def command(prepared_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """After a training that was told to stop in its final validation."""
    add_variant(502, variant="validated", settings=SHORT | LENGTH)
    command = Command(tmp_path_factory.mktemp("validated"))
    process = command.start()
    _wait_for_workers(process)
    os.killpg(process.pid, signal.SIGTERM)
    _check_pause(process)
    return command


def _wait_for_workers(process: subprocess.Popen[str]) -> list[int]:
    """Worker processes of the validation's pool, as soon as there are any."""
    found: list[int] = []
    deadline = time.monotonic() + 200
    while not found:
        assert process.poll() is None and time.monotonic() < deadline, process.stdout and process.stdout.read()
        time.sleep(0.02)
        found = [pid for pid in descendants(process.pid) if "multiprocessing.spawn" in _line(pid)]
    return found


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _end(process: subprocess.Popen[str]) -> str:
    """What it said, once it and all whom it has started have ended."""
    everyone = descendants(process.pid)
    output, _ = process.communicate(timeout=200)
    assert all(has_ended(pid) for pid in everyone)
    return output


def _check_pause(process: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    output = _end(process)
    assert process.returncode == 75, output[-3000:]
    assert time.monotonic() - began < 30
    assert output.count("The final validation was stopped, because a signal asked for it; validate again with") == 1
    assert "Traceback" not in output and "bdfm: error" not in output


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@linux
@pytest.mark.slow
def test_a_signal_in_the_final_validation_ends_it_in_order(command: Command) -> None:
    """To the main process alone; that to all processes came when the training itself ended."""
    process = command.start("--val")
    _wait_for_workers(process)
    process.send_signal(signal.SIGUSR1)
    _check_pause(process)
    assert not (command.folder / "validation" / "summary.json").exists()
    assert (command.folder / "checkpoint_final.pth").is_file()


@linux
@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_final_validation_is_a_sentence(command: Command) -> None:
    process = command.start("--val")
    os.kill(_wait_for_workers(process)[0], signal.SIGKILL)
    output = _end(process)
    (line,) = (line for line in output.splitlines() if line.startswith("bdfm: error:"))
    assert "ended one of the 2 worker processes" in line and "--val" in line
    assert process.returncode == 2 and "Traceback" not in output


@linux
@pytest.mark.slow
def test_a_full_disk_in_the_final_validation_is_a_sentence_and_no_file(command: Command) -> None:
    process = command.start("--val")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200, 200))
    output = _end(process)
    (line,) = (line for line in output.splitlines() if line.startswith("bdfm: error:"))
    assert "cannot write" in line and "/validation/" in line and "validate again with --val" in line
    assert process.returncode == 2 and "Traceback" not in output
    assert not list((command.folder / "validation").iterdir())


@linux
@pytest.mark.slow
def test_workers_of_the_final_validation_end_with_it_and_it_can_be_done_again(command: Command) -> None:
    process = command.start("--val")
    workers = _wait_for_workers(process)
    process.kill()
    process.communicate(timeout=60)
    assert all(has_ended(pid, 60) for pid in workers)
    process = command.start("--c")
    output = _end(process)
    assert process.returncode == 0, output[-3000:]
    folder = command.folder / "validation"
    summary = read_json(folder / "summary.json")
    assert len(summary["metric_per_case"]) == len(list(folder.glob("*.nii.gz"))) > 0
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not any(is_alive(pid) for pid in workers)
