"""Calibration: how long a training will take on this machine, from a few of its steps."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from bdfm_nnunet.cost_records import Schedule
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training.trainer import Trainer
from bdfm_nnunet.training.trial_trainer import schedule_of

WARMUP = 3
"""Steps that are not counted: memory is fetched, kernels are chosen and compiled in them."""
BATCHES_AHEAD = 4
"""At most so many batches lie ready for each loader process ..."""
BATCHES_BESIDES = 8
"""... and so many more in the queues of nnU-Net's loaders."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the mean of some measurements, and percentiles of the means of 2,000 samples drawn from them."""
        data = np.asarray(values, dtype=float)
        draws = np.random.default_rng(0).choice(data, (2000, len(data))).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return cls(float(data.mean()), float(low), float(high))

    def at_least(self, bound: float) -> "Interval":
        """Return the interval with values below the bound raised to it."""
        return Interval(*(max(value, bound) for value in (self.mean, self.low, self.high)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Times in seconds, measured on some steps.

    Attributes:
        schedule: schedule of the whole training.
        device: device of the steps.
        threads: number of torch's threads in this process.
        steps: time of each step, including the wait for its batch.
        waits: time that each step waited for its batch.
        validations: time of each validation batch.
        loading: time in which the loaders deliver one batch while nothing else computes.
        peak_gb: largest memory in GiB that torch held on a CUDA device; None on other devices.
    """

    schedule: Schedule
    device: str
    threads: int
    steps: tuple[float, ...]
    waits: tuple[float, ...]
    validations: tuple[float, ...]
    loading: float
    peak_gb: float | None = None

    @property
    def step(self) -> Interval:
        """Seconds of a step: as measured, but at least the loaders' time per batch once none is ready in advance."""
        return Interval.of(self.steps).at_least(self.loading)

    @property
    def validation(self) -> Interval:
        """Seconds of a validation batch."""
        return Interval.of(self.validations)

    @property
    def waiting(self) -> float:
        """Share of a step that is spent waiting for data."""
        computing = float(np.mean(self.steps) - np.mean(self.waits))
        return max(1 - computing / self.step.mean, 0.0)

    @property
    def hours(self) -> Interval:
        """Hours of the whole training, including validation."""
        step, validation = self.step, self.validation
        return Interval(
            *(
                self.schedule.hours(step=getattr(step, name), validation=getattr(validation, name))
                for name in ("mean", "low", "high")
            )
        )


def find_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the fastest one of this machine.

    Raises:
        InputError: this machine has no such device.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    found = [device for device, available in there.items() if available]
    if name is not None and name not in found:
        raise InputError(f"--device {name} is not there for torch on this machine: choose {' or '.join(found)}")
    return torch.device(name or found[0])


@contextmanager
def threads_of_training(device: torch.device) -> Iterator[None]:
    """Give torch as many threads as nnU-Net's training command does for this device."""
    before = torch.get_num_threads()
    if device.type in ("cpu", "cuda"):
        torch.set_num_threads((os.cpu_count() or 1) if device.type == "cpu" else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def calibrate(trainer: nnUNetTrainer, *, steps: int = 20) -> Calibration:
    """Train for some steps and validate some batches, on the preprocessed data and as a training would.

    Args:
        trainer: a new trainer; do not reuse it.
        steps: number of timed steps, after a few untimed ones.
    """
    schedule = schedule_of(trainer)
    validations = max(steps // 5, 2)
    workers = get_allowed_n_proc_DA()
    ready = BATCHES_AHEAD * workers + BATCHES_BESIDES if workers else 0
    trainer.num_iterations_per_epoch = WARMUP + steps
    trainer.num_epochs = 3 + ready // steps  # as many batches as are drawn below, and some more
    trainer.num_val_iterations_per_epoch = 1 + validations
    outputs: list[Any] = []
    take_step = trainer.run.take_step if isinstance(trainer, Trainer) else trainer.train_step
    try:
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        _watch_memory(trainer.device)
        timed = [
            _step(trainer.dataloader_train, lambda batch: outputs.append(_on_host(take_step(batch))))
            for _ in range(WARMUP + steps)
        ][WARMUP:]
        trainer.on_train_epoch_end(outputs)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            checked = [_step(trainer.dataloader_val, trainer.validation_step) for _ in range(1 + validations)][1:]
        return Calibration(
            schedule=schedule,
            device=_name(trainer.device),
            threads=torch.get_num_threads(),
            steps=tuple(whole for _, whole in timed),
            waits=tuple(waited for waited, _ in timed),
            validations=tuple(whole for _, whole in checked),
            loading=_loading(trainer.dataloader_train, ready=ready, batches=steps),
            peak_gb=torch.cuda.max_memory_reserved() / 2**30 if trainer.device.type == "cuda" else None,
        )
    finally:
        _end_loaders(trainer)


def _end_loaders(trainer: nnUNetTrainer) -> None:
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):  # nnU-Net's loaders leave their processes to whoever made them
            loader._finish()
    trainer.dataloader_train = trainer.dataloader_val = None


def _on_host(terms: dict[str, Any]) -> dict[str, float]:
    """Return the losses as numbers, which waits for the end of the step."""
    return {name: float(term) for name, term in terms.items()}


def _step(loader: Iterator[Any], work: Callable[[Any], object]) -> tuple[float, float]:
    """Time a step until the batch was there, and until all was done: it ends with a number from the device."""
    start = perf_counter()
    batch = next(loader)
    waited = perf_counter() - start
    work(batch)
    return waited, perf_counter() - start


def _loading(loader: Iterator[Any], *, ready: int, batches: int) -> float:
    """Return the seconds in which the loader prepares one batch, those that lie ready aside."""
    for _ in range(ready):
        next(loader)
    start = perf_counter()
    for _ in range(batches):
        next(loader)
    return (perf_counter() - start) / batches


def _watch_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type
