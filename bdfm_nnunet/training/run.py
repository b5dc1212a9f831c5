"""The run of a training: its epochs, stopped at any step and resumed there bit for bit."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, is_full, sweep, write_json
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.training.final_validation import AGAIN, careful_validation, clear_validation
from bdfm_nnunet.training.nonfinite import LossWatch
from bdfm_nnunet.training.saver import LATEST
from bdfm_nnunet.training.signals import (
    BROKEN,
    CTRL_C,
    STOP,
    TIME_UP,
    Clock,
    StopSignals,
    TrainingPaused,
    ending_at_signals,
)

LOCK = ".training.lock"
LOCK_SECONDS = 5.0  # the loaders of a process that was just killed hold on to it for a moment
_TAKEN = "another training is at work in {}: wait for it to end, or train another fold, configuration or plans"


class Run:
    """The run of a trainer from its current epoch, or from the step in it that was loaded, to the last.

    Everything random inside an epoch must come from torch's random states, which checkpoints hold, or from numbers
    alone. Only hooks of nnU-Net's trainer and a few of ours are called (`reseed_epoch`, `saver`, `processes`), so any
    object that has them can be run, without nnU-Net too. `on_train_epoch_start` must call `start_epoch`, a checkpoint
    must hold `midway`, and who loads one must give it back.

    Args:
        trainer: what is run.
        checkpoint_minutes: minutes between two writings of checkpoint_latest.pth; None for none within an epoch.
        max_hours: the run saves and ends before it has taken so long; None for no limit.

    Attributes:
        iteration: steps begun in the current epoch.
        midway: while a checkpoint is written or was loaded in the middle of an epoch, its place; else None.
    """

    def __init__(
        self, trainer: Any, *, checkpoint_minutes: float | None = None, max_hours: float | None = None
    ) -> None:
        self.trainer = trainer
        self.checkpoint_minutes = checkpoint_minutes
        self.max_hours = max_hours
        self.iteration = 0
        self.midway: dict[str, Any] | None = None
        self._started = time.monotonic()
        self._losses = LossWatch()
        self._signals = StopSignals()
        self._clock = Clock(interval_minutes=None, max_hours=None)
        self._bar: tqdm[Any] | None = None

    @property
    def step_number(self) -> int:
        """Steps since the run began, this one included."""
        return int(self.trainer.current_epoch * self.trainer.num_iterations_per_epoch + self.iteration)

    @property
    def steps_done(self) -> int:
        """Steps done before the next one, as the loaded checkpoint tells."""
        done = self.midway["iteration"] if self.midway else 0
        return int(self.trainer.current_epoch * self.trainer.num_iterations_per_epoch + done)

    def train(self) -> None:
        """Train to the last epoch.

        Raises:
            TrainingPaused: a signal, or the time is up; checkpoint_latest.pth is written.
            InputError: a loss that is not finite, among others.
        """
        trainer = self.trainer
        with self._only_run(), StopSignals() as self._signals:
            self._start()
            minutes = None if trainer.disable_checkpointing else self.checkpoint_minutes
            self._clock = Clock(interval_minutes=minutes, max_hours=self.max_hours, started=self._started)
            while trainer.current_epoch < trainer.num_epochs:
                self._train_epoch()
            trainer.on_train_end()

    def _start(self) -> None:
        """Prepare the run; nnU-Net writes the plans and what belongs to them."""
        try:
            self.trainer.on_train_start()
        except OSError as error:
            if not is_full(error):
                raise
            raise cannot_write(Path(error.filename or self.trainer.output_folder), error) from error

    def validate_finished(self, validate: Callable[[], None]) -> None:
        """Validate whole cases, which a signal ends at once; `--val` or `--c` begins it anew.

        nnU-Net's summary.json is there only after a validation that came to its end.

        Args:
            validate: nnU-Net's validation.

        Raises:
            TrainingPaused: a signal, or one that came after the last step of the training.
            InputError: the system has ended a worker, or the predictions cannot be written.
        """
        trainer = self.trainer
        folder = Path(trainer.output_folder) / "validation"
        pause = f"The final validation was stopped, because a signal asked for it; {AGAIN}."
        try:
            if wanted := trainer.processes.settle(self._signals.wanted):
                raise TrainingPaused(pause, wanted)
            with self._only_run(), ending_at_signals(pause), careful_validation(folder):
                if trainer.local_rank == 0:
                    clear_validation(folder)
                trainer.processes.wait()
                validate()
        except TrainingPaused:
            trainer.print_to_log_file(pause)
            raise

    def start_epoch(self) -> None:
        """Count from the first step."""
        self.iteration = 0
        self._losses = LossWatch()
        trainer = self.trainer
        self._bar = tqdm(
            initial=self.midway["iteration"] if self.midway else 0,
            total=trainer.num_iterations_per_epoch,
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.num_epochs}",
            leave=False,
            disable=None if trainer.local_rank == 0 else True,  # None: only where somebody watches
        )

    def take_step(self, batch: Any) -> dict[str, Any]:
        """Count the next step of the epoch and take it; its rate goes by its number."""
        self.iteration += 1
        terms: dict[str, Any] = self.trainer.train_step(batch)
        if self._bar is not None:
            self._bar.update()
        return terms

    def saved(self, seconds: float) -> None:
        """Note that checkpoint_latest.pth was written, or tried to, which took so long."""
        self._clock.saved(seconds)

    @contextmanager
    def _only_run(self) -> Iterator[None]:
        """Keep other trainings out of the fold's folder, and clear it of what killed ones have left half-written.

        Raises:
            InputError: another training is at work there; all processes of this one raise it.
        """
        folder = Path(self.trainer.output_folder)
        with ExitStack() as stack:
            refusal = ""
            if self.trainer.local_rank == 0:
                try:
                    stack.enter_context(hold_lock(folder / LOCK, wait=LOCK_SECONDS, otherwise=_TAKEN.format(folder)))
                    sweep(folder)
                except InputError as error:
                    refusal = str(error)
            if refusal := self.trainer.processes.gather(refusal)[0]:
                raise InputError(refusal)
            yield

    def _train_epoch(self) -> None:
        trainer = self.trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        self._go_on_midway()
        for _ in range(self.iteration, trainer.num_iterations_per_epoch):
            batch = next(trainer.dataloader_train)
            terms = self.take_step(batch)
            self._losses.put(self.step_number, batch.get("keys", ()), terms)
            self._attend()
        self._losses.settle()
        if BROKEN in trainer.processes.settle(self._broken):
            self._give_up()
        if self._bar is not None:
            self._bar.close()
        trainer.on_train_epoch_end(self._losses.outputs)
        self._validate()
        with trainer.saver.spared():
            trainer.on_epoch_end()

    @torch.no_grad()
    def _validate(self) -> None:
        trainer, outputs = self.trainer, []
        trainer.on_validation_epoch_start()
        for _ in range(trainer.num_val_iterations_per_epoch):
            outputs.append(trainer.validation_step(next(trainer.dataloader_val)))
            self._attend()
        trainer.on_validation_epoch_end(outputs)

    @property
    def _broken(self) -> set[str]:
        return {BROKEN} if self._losses.broken else set()

    def _attend(self) -> None:
        """Do after each step what any process wants, all processes at the same step."""
        processes = self.trainer.processes
        heard = processes.exchange(self._broken | self._signals.wanted | self._clock.tick())
        if not heard:
            return
        self._losses.settle()  # what is saved must be known to be sound
        heard |= processes.settle(self._broken)
        if BROKEN in heard:
            self._give_up()
        if reasons := heard & {STOP, CTRL_C, TIME_UP}:
            self._save_midway()
            self._pause(reasons)
        with self.trainer.saver.spared():
            self._save_midway()

    def _pause(self, reasons: set[str]) -> None:
        trainer = self.trainer
        where = f"step {self.iteration} of epoch {trainer.current_epoch + 1}"
        why = "the time of max_hours is up" if reasons == {TIME_UP} else "a signal asked for it"
        saved = "nothing is saved" if trainer.disable_checkpointing else f"{LATEST} is saved, --c continues"
        message = f"Training paused after {where}, because {why}; {saved}."
        trainer.print_to_log_file(message)
        raise TrainingPaused(message, reasons)

    def _give_up(self) -> None:
        """End all processes because of a loss that is not finite; rank 0 writes where that was."""
        trainer = self.trainer
        found = [{"rank": rank, **step} for rank, steps in enumerate(trainer.processes.gather(self._losses.broken))
                 for step in steps]  # fmt: skip
        path = Path(trainer.output_folder) / "nonfinite_batch.json"
        if trainer.local_rank == 0:
            write_json(path, found)
        trainer.processes.wait()
        raise InputError(
            f"the loss or its gradient is not finite in step {found[0]['step']}, {path} names the cases: look at them, "
            "lower training.initial_lr or set training.precision=fp32, and continue with --c from the last checkpoint, "
            "which is sound",
            entry="not-finite",
        )

    def _save_midway(self) -> None:
        """Write checkpoint_latest.pth with the place in the epoch and the random states of all processes."""
        trainer = self.trainer
        self._losses.settle()
        mine = {"random": _random_states(trainer.device), "outputs": self._losses.outputs}
        self.midway = {"iteration": self.iteration, "processes": trainer.processes.gather(mine)}
        try:
            trainer.save_checkpoint(str(Path(trainer.output_folder) / LATEST))
        finally:
            self.midway = None
            self._clock.saved(0.0)

    def _go_on_midway(self) -> None:
        """Take up the epoch where the loaded checkpoint was written, if it was in the middle of one."""
        if self.midway is None:
            return
        trainer = self.trainer
        progress, self.midway = self.midway, None
        self.iteration = progress["iteration"]
        trainer.print_to_log_file(f"Continuing after step {self.iteration} of epoch {trainer.current_epoch + 1}.")
        processes = progress["processes"]
        if len(processes) == trainer.processes.count:
            mine = processes[trainer.processes.rank]
            self._losses = LossWatch(mine["outputs"])
            _set_random_states(trainer.device, mine["random"])
        else:  # the run goes on with another number of processes
            steps = zip(*(process["outputs"] for process in processes))
            means = [{name: sum(part[name] for part in step) / len(step) for name in step[0]} for step in steps]
            self._losses = LossWatch(means)
            trainer.reseed_epoch(self.iteration)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the random states that stochastic depth draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states if device.type == "cpu" else states | {device.type: getattr(torch, device.type).get_rng_state()}


def _set_random_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type])
