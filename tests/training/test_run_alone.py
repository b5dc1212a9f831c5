"""Any object that has the hooks can be run: a trainer of a few lines, without nnU-Net."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training.run import LOCK
from bdfm_nnunet.training.saver import LATEST
from bdfm_nnunet.training.signals import TrainingPaused
from tests.training.tiny_trainer import TinyTrainer

STEPS = TinyTrainer.num_epochs * TinyTrainer.num_iterations_per_epoch


@pytest.fixture
def whole(tmp_path: Path) -> TinyTrainer:
    """An undisturbed run."""
    trainer = TinyTrainer(tmp_path / "whole")
    trainer.run.train()
    assert trainer.finished and [len(epoch) for epoch in trainer.curve] == [6, 6]
    return trainer


def test_runs_do_not_need_nnunet() -> None:
    code = "import sys, tests.training.tiny_trainer; print(*(name for name in sys.modules if 'nnunetv2' in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr[-2000:]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_stopped_by_a_signal_after_any_step_it_goes_on_bit_for_bit(
    step: int, number: int, tmp_path: Path, whole: TinyTrainer
) -> None:
    handler = signal.getsignal(number)
    first = TinyTrainer(tmp_path)
    first.at[step] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(TrainingPaused) as paused:
        first.run.train()
    assert paused.value.code == (130 if number == signal.SIGINT else 75)
    epoch, done = divmod(step - 1, first.num_iterations_per_epoch)
    assert f"step {done + 1} of epoch {epoch + 1}, because a signal asked for it" in first.told[-1]
    assert not first.finished and signal.getsignal(number) == handler
    torch.manual_seed(99)  # another process
    second = TinyTrainer(tmp_path).load_checkpoint()
    assert second.run.steps_done == step
    second.run.train()
    assert second.curve == whole.curve and torch.equal(second.weight, whole.weight)
    assert second.finished


def test_stopped_again_and_again(tmp_path: Path, whole: TinyTrainer) -> None:
    for step in range(1, STEPS + 1):
        trainer = TinyTrainer(tmp_path)
        if step > 1:
            trainer.load_checkpoint()
        trainer.at[step] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TrainingPaused):
            trainer.run.train()
    last = TinyTrainer(tmp_path).load_checkpoint()
    last.run.train()
    assert last.curve == whole.curve


def test_a_signal_in_the_validation_repeats_the_validation(tmp_path: Path, whole: TinyTrainer) -> None:
    first = TinyTrainer(tmp_path)
    first.validation_step = lambda batch: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[assignment]
    with pytest.raises(TrainingPaused):
        first.run.train()
    second = TinyTrainer(tmp_path).load_checkpoint()
    assert (second.current_epoch, second.run.steps_done) == (0, second.num_iterations_per_epoch)
    second.run.train()
    assert second.curve == whole.curve


def test_the_time_is_up(tmp_path: Path) -> None:
    trainer = TinyTrainer(tmp_path, max_hours=1e-9)
    with pytest.raises(TrainingPaused, match="75"):
        trainer.run.train()
    assert "because the time of max_hours is up; checkpoint_latest.pth is saved" in trainer.told[-1]
    assert TinyTrainer(tmp_path).load_checkpoint().run.steps_done == 1


def test_checkpoints_every_so_often(tmp_path: Path, whole: TinyTrainer) -> None:
    """An interval of no time at all: one after each step, and the one before it stays."""
    trainer = TinyTrainer(tmp_path, checkpoint_minutes=1e-9)
    seen: list[int] = []
    trainer.at = {step: lambda: seen.append(_steps_in(tmp_path / LATEST)) for step in (2, 3)}
    trainer.run.train()
    assert seen == [1, 2] and trainer.curve == whole.curve


def _steps_in(path: Path) -> int:
    return int(read_checkpoint(path).progress["iteration"])


def test_paused_without_checkpoints(tmp_path: Path) -> None:
    trainer = TinyTrainer(tmp_path, checkpoint_minutes=1e-9)
    trainer.disable_checkpointing = True
    trainer.at[3] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(TrainingPaused):
        trainer.run.train()
    assert "nothing is saved" in trainer.told[-1] and not list(tmp_path.glob("*.pth"))


def test_a_loss_that_is_not_finite_ends_the_run_with_sound_weights_on_the_disk(tmp_path: Path) -> None:
    trainer = TinyTrainer(tmp_path, checkpoint_minutes=1e-9)

    def poison() -> None:
        trainer.weight = trainer.weight * torch.nan

    trainer.at[5] = poison
    with pytest.raises(InputError, match=r"not finite in step 6, .*nonfinite_batch\.json names the cases"):
        trainer.run.train()
    (found,) = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert found == {"rank": 0, "step": 6, "keys": ["case5"], "terms": {"loss": "nan"}}
    assert not trainer.finished


def test_going_on_with_another_number_of_processes(tmp_path: Path, whole: TinyTrainer) -> None:
    """The losses so far are the means over those there were."""
    first = TinyTrainer(tmp_path)
    first.at[2] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(TrainingPaused):
        first.run.train()
    second = TinyTrainer(tmp_path).load_checkpoint()
    midway = second.run.midway
    assert midway is not None
    (alone,) = midway["processes"]
    other = alone | {"outputs": [{"loss": output["loss"] + 2} for output in alone["outputs"]]}
    second.run.midway = {**midway, "processes": [alone, other]}
    second.num_epochs = 1
    second.run.train()
    assert second.curve[0][:2] == pytest.approx([output["loss"] + 1 for output in alone["outputs"]])
    assert len(second.curve[0]) == len(whole.curve[0])


def test_one_run_at_a_time_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdfm_nnunet.training.run.LOCK_SECONDS", 0.1)
    trainer = TinyTrainer(tmp_path)
    refusals: list[str] = []

    def begin_another() -> None:
        with pytest.raises(InputError) as raised:
            TinyTrainer(tmp_path).run.train()
        refusals.append(str(raised.value))

    trainer.at[1] = begin_another
    trainer.run.train()
    assert len(refusals) == 1 and str(tmp_path) in refusals[0] and trainer.finished
    assert (tmp_path / LOCK).parent == tmp_path
