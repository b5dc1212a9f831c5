"""Hours are steps times seconds, and the seconds are those of real steps on preprocessed data."""

import os
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bdfm_nnunet.cost_records import Schedule
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training import calibration
from bdfm_nnunet.training.calibration import Calibration, Interval, calibrate, find_device, threads_of_training
from bdfm_nnunet.training.trainer import Trainer as OurTrainer
from bdfm_nnunet.training.trial_trainer import trial_trainer
from tests.conftest import Prepared
from tests.training.test_trial_trainer import what

SCHEDULE = Schedule(epochs=100, iterations=36, val_iterations=18, batch_size=2)


def made(**changes: Any) -> Calibration:
    values: dict[str, Any] = {
        "steps": (2.0, 2.0), "waits": (0.5, 0.5), "validations": (1.0, 1.0), "loading": 0.1
    }  # fmt: skip
    return Calibration(schedule=SCHEDULE, device="cpu", threads=1, **(values | changes))


def test_hours_are_steps_times_seconds() -> None:
    assert made().hours == Interval(2.5, 2.5, 2.5)  # 3600 steps of 2 s and 1800 validation batches of 1 s
    assert made().waiting == pytest.approx(0.25)


def test_interval_is_that_of_the_mean() -> None:
    interval = Interval.of([1.0, 3.0] * 50)
    assert interval.mean == 2
    # the standard error is 0.1
    assert 1.77 < interval.low < 1.84 and 2.16 < interval.high < 2.23
    hours = made(steps=tuple([1.0, 3.0] * 50)).hours
    assert hours.mean == pytest.approx(2.5)
    assert hours.low == pytest.approx(interval.low + 0.5) and hours.high == pytest.approx(interval.high + 0.5)


def test_loaders_that_cannot_follow_set_the_pace() -> None:
    """What lay ready at the start hides it from the steps."""
    slow = made(waits=(0.0, 0.0), loading=8.0)
    assert slow.step == Interval(8, 8, 8)
    assert slow.waiting == pytest.approx(0.75)
    assert slow.hours.mean == pytest.approx(8.5)


class Trainer(SimpleNamespace):
    """The protocol of nnU-Net's trainers, whose work is to put a clock forward."""

    def __init__(self) -> None:
        super().__init__(
            num_epochs=7, num_iterations_per_epoch=11, num_val_iterations_per_epoch=5, device=torch.device("cpu"),
            configuration_manager=SimpleNamespace(batch_size=3), calls=[], now=0.0,
        )  # fmt: skip

    def on_train_start(self) -> None:
        self.calls.append("start")
        self.dataloader_train = self._batches()
        self.dataloader_val = repeat({})

    def _batches(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.num_epochs * self.num_iterations_per_epoch):
            self.now += 3.0
            yield {}

    def __getattr__(self, name: str) -> Any:
        if name in ("on_train_epoch_start", "on_validation_epoch_start"):
            return lambda: self.calls.append(name)
        raise AttributeError(name)

    def on_train_epoch_end(self, outputs: list[Any]) -> None:
        self.calls.append(len(outputs))

    def train_step(self, batch: Any) -> dict[str, Any]:
        self.now += 1.0
        return {"loss": torch.tensor(1.0)}

    def validation_step(self, batch: Any) -> None:
        assert not torch.is_grad_enabled()
        self.now += 5.0


def test_waiting_is_told_from_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer: Any = Trainer()
    monkeypatch.setattr(calibration, "perf_counter", lambda: trainer.now)
    found = calibrate(trainer, steps=4)
    assert found.schedule == Schedule(epochs=7, iterations=11, val_iterations=5, batch_size=3)
    assert len(found.steps) == len(found.waits) == 4
    assert set(found.steps) == {4.0} and set(found.waits) == {3.0} and found.waiting == pytest.approx(0.75)
    assert found.loading == pytest.approx(3.0)
    assert set(found.validations) == {5.0}
    assert trainer.calls == ["start", "on_train_epoch_start", 4 + calibration.WARMUP, "on_validation_epoch_start"]


def _rates_of_steps(trainer: Any) -> list[tuple[int, float]]:
    """Will hold number and learning rate of each step of a trainer of ours."""
    found: list[tuple[int, float]] = []
    if isinstance(trainer, OurTrainer):
        train_step = trainer.train_step

        def noted(batch: Any) -> Any:
            terms = train_step(batch)
            found.append((trainer.run.step_number, trainer.optimizer.param_groups[0]["lr"]))
            return terms

        trainer.train_step = noted  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("name", ["nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM", "nnUNetTrainer"])
def test_calibration_trains_on_the_preprocessed_data_and_leaves_nothing(
    prepared: Prepared, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("BDFM_WEIGHTS", "/nowhere.pth")
    data = prepared.folder("nnUNet_preprocessed", prepared.labelled)
    arguments = what(prepared, "calibration")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    capsys.readouterr()
    with trial_trainer(name, **arguments) as trainer:
        rates = _rates_of_steps(trainer)
        found = calibrate(trainer, steps=2)
    if name != "nnUNetTrainer":  # one step after the other, as in a training
        assert [number for number, _ in rates] == [1, 2, 3, 4, 5] and min(rate for _, rate in rates) > 0
    assert found.schedule.steps == (6 if name != "nnUNetTrainer" else 250_000)
    assert len(found.steps) == 2 and min(found.steps) > 0
    assert all(wait < step for wait, step in zip(found.waits, found.steps, strict=True))
    assert found.hours.low <= found.hours.mean <= found.hours.high
    assert found.peak_gb is None
    assert not list(Path(os.environ["nnUNet_results"]).iterdir())
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert capsys.readouterr().out == ""


def test_device_and_threads() -> None:
    assert find_device("cpu") == torch.device("cpu")
    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"--device {missing} is not there for torch .* choose .*cpu"):
        find_device(missing)
    best = find_device()
    assert best.type == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    before = torch.get_num_threads()
    with threads_of_training(torch.device("cpu")):
        assert torch.get_num_threads() == os.cpu_count()
    assert torch.get_num_threads() == before
