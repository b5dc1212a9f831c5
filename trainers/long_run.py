"""Runs of weeks: checkpoints in the middle of an epoch, signals, a limit of time, losses that are not finite."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.checkpoint_reading import EXPOSURE, PROGRESS, Checkpoint, loading_as_data, read_checkpoint
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, is_full, sweep, write_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.trainers.final_validation import AGAIN, careful_validation, clear_validation
from bdfm_nnunet.trainers.processes import SharedTrainer
from bdfm_nnunet.training.nonfinite import LossWatch
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

_CUDA = torch.device("cuda")
_LOCK = ".training.lock"
_LOCK_SECONDS = 5.0  # the loaders of a process that was just killed hold on to it for a moment
_TAKEN = "another training is at work in {}: wait for it to end, or train another fold, configuration or plans"
_PLACE = {"iteration": int, "processes": [{"random": dict, "outputs": [dict]}]}
"""The shape of what a checkpoint from the middle of an epoch says about its place."""
_LATEST, _PREVIOUS = "checkpoint_latest.pth", "checkpoint_previous.pth"


class LongTrainer(SharedTrainer):
    """A trainer that can be stopped at any step and goes on there, bit for bit.

    Subclasses draw everything random inside an epoch from torch's random states, which checkpoints hold, or from
    numbers alone.

    Attributes:
        max_hours: the run saves and ends before it has taken so long.
        resumed: whether a checkpoint of this run was loaded.
    """

    current_epoch: int
    _best_ema: float | None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.max_hours = self.training.max_hours
        self.resumed = False
        self._started = time.monotonic()
        self._iteration = 0
        self._losses = LossWatch()
        self._signals = StopSignals()
        self._clock = Clock(interval_minutes=None, max_hours=None)
        self._midway: dict[str, Any] | None = None
        self._survives_full_disk = False

    def reseed_epoch(self, *keys: int) -> None:
        """Fixes everything random from here on in this epoch and process."""
        raise NotImplementedError

    def exposure_entry(self) -> Any:
        """What checkpoints tell about the cases seen."""
        raise NotImplementedError

    def recall_exposure(self, stored: Any) -> None:
        """Takes over what an interrupted run has told."""
        raise NotImplementedError

    # --- the run ------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Trains from the current epoch, or from the step in it that was loaded, to the last.

        Raises:
            TrainingPaused: a signal, or the time is up; checkpoint_latest.pth is written.
            InputError: a loss that is not finite, among others.
        """
        with self._only_run(), StopSignals() as self._signals:
            self._start()
            minutes = None if self.disable_checkpointing else self.training.checkpoint_minutes
            self._clock = Clock(interval_minutes=minutes, max_hours=self.max_hours, started=self._started)
            while self.current_epoch < self.num_epochs:
                self._run_epoch()
            self.on_train_end()

    def _start(self) -> None:
        """Prepares the run; nnU-Net writes the plans and what belongs to them."""
        try:
            self.on_train_start()
        except OSError as error:
            if not is_full(error):
                raise
            raise cannot_write(Path(error.filename or self.output_folder), error) from error

    @contextmanager
    def _only_run(self) -> Iterator[None]:
        """Keeps other trainings out of the fold's folder, and clears it of what killed ones have left half-written.

        Raises:
            InputError: another training is at work there; all processes of this one raise it.
        """
        folder = Path(self.output_folder)
        with ExitStack() as stack:
            refusal = ""
            if self.local_rank == 0:
                try:
                    stack.enter_context(hold_lock(folder / _LOCK, wait=_LOCK_SECONDS, otherwise=_TAKEN.format(folder)))
                    sweep(folder)
                except InputError as error:
                    refusal = str(error)
            if refusal := self.peers.gather(refusal)[0]:
                raise InputError(refusal)
            yield

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation of whole cases, which a signal ends at once; it is begun anew by `--val` or `--c`.

        Its summary.json is there only after a validation that came to its end.

        Raises:
            TrainingPaused: a signal, or one that came after the last step of the training.
            InputError: the system has ended a worker, or the predictions cannot be written.
        """
        folder = Path(self.output_folder) / "validation"
        pause = f"The final validation was stopped, because a signal asked for it; {AGAIN}."
        try:
            if wanted := self.peers.settle(self._signals.wanted):
                raise TrainingPaused(pause, wanted)
            with self._only_run(), ending_at_signals(pause), careful_validation(folder):
                if self.local_rank == 0:
                    clear_validation(folder)
                self.peers.wait()
                super().perform_actual_validation(save_probabilities)
        except TrainingPaused:
            self.print_to_log_file(pause)
            raise

    def _run_epoch(self) -> None:
        self.on_epoch_start()
        self.on_train_epoch_start()
        self._go_on_midway()
        for _ in range(self._iteration, self.num_iterations_per_epoch):
            batch = next(self.dataloader_train)
            terms = self.train_step(batch)
            self._losses.put(self._step_number, batch.get("keys", ()), terms)
            self._attend()
        self._losses.settle()
        if BROKEN in self.peers.settle(self._broken):
            self._give_up()
        self.on_train_epoch_end(self._losses.outputs)
        with torch.no_grad():
            self.on_validation_epoch_start()
            outputs = []
            for _ in range(self.num_val_iterations_per_epoch):
                outputs.append(self.validation_step(next(self.dataloader_val)))
                self._attend()
            self.on_validation_epoch_end(outputs)
        with self._spared():
            self.on_epoch_end()

    @property
    def _step_number(self) -> int:
        """Steps since the run began, this one included."""
        return self.current_epoch * self.num_iterations_per_epoch + self._iteration

    @property
    def _broken(self) -> set[str]:
        return {BROKEN} if self._losses.broken else set()

    def _attend(self) -> None:
        """After each step: does what any process wants, all of them at the same step."""
        heard = self.peers.exchange(self._broken | self._signals.wanted | self._clock.tick())
        if not heard:
            return
        self._losses.settle()  # what is saved must be known to be sound
        heard |= self.peers.settle(self._broken)
        if BROKEN in heard:
            self._give_up()
        reasons = heard & {STOP, CTRL_C, TIME_UP}
        if reasons:
            self._save_midway()
            self._pause(reasons)
        with self._spared():
            self._save_midway()

    def _pause(self, reasons: set[str]) -> None:
        where = f"step {self._iteration} of epoch {self.current_epoch + 1}"
        why = "the time of max_hours is up" if reasons == {TIME_UP} else "a signal asked for it"
        saved = "nothing is saved" if self.disable_checkpointing else "checkpoint_latest.pth is saved, --c continues"
        message = f"Training paused after {where}, because {why}; {saved}."
        self.print_to_log_file(message)
        raise TrainingPaused(message, reasons)

    def _give_up(self) -> None:
        """Ends all processes because of a loss that is not finite; rank 0 writes where that was."""
        found = [{"rank": rank, **step} for rank, steps in enumerate(self.peers.gather(self._losses.broken))
                 for step in steps]  # fmt: skip
        path = Path(self.output_folder) / "nonfinite_batch.json"
        if self.local_rank == 0:
            write_json(path, found)
        self.peers.wait()
        raise InputError(
            f"the loss or its gradient is not finite in step {found[0]['step']}, {path} names the cases: look at them, "
            "lower training.initial_lr or set training.precision=fp32, and continue with --c from the last checkpoint, "
            "which is sound"
        )

    def on_train_epoch_start(self) -> None:
        """Counts from the first step."""
        self._iteration = 0
        self._losses = LossWatch()
        super().on_train_epoch_start()

    def save_if_best(self, score: float) -> None:
        """Writes checkpoint_best.pth where the epoch has the best score so far.

        To be called before checkpoint_latest.pth is written: that one then knows of the best score, and a run that is
        killed between the two repeats this epoch and finds it again.
        """
        if self._best_ema is not None and not score > self._best_ema:
            return
        self._best_ema = score
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_best.pth"))

    def on_epoch_end(self) -> None:
        """nnU-Net's end of an epoch, which a figure that cannot be written does not end."""
        epoch = self.current_epoch
        dice = float(self.logger.get_value("ema_fg_dice", step=-1))
        if self._best_ema is None or dice > self._best_ema:
            self.print_to_log_file(f"New best EMA pseudo Dice: {dice:.4f}")
        self.save_if_best(dice)
        try:
            super().on_epoch_end()
        except OSError as error:
            self.print_to_log_file(f"WARNING: training goes on without a new progress.png: {error}")
        self.current_epoch = epoch + 1

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Writes checkpoint_final.pth, which takes the place of those of the way."""
        super().on_train_end()
        if self.local_rank == 0:
            (Path(self.output_folder) / _PREVIOUS).unlink(missing_ok=True)

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint, whole or not at all: the one before it stays until the new one is on the disk.

        It is nnU-Net's own with one entry more, which names the cases seen (see `bdfm_nnunet.exposure`), and one that
        says where in the epoch it was written. The last checkpoint_latest.pth but one is kept as
        checkpoint_previous.pth.

        Raises:
            InputError: it cannot be written; inside the run a warning, except for checkpoint_final.pth.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        try:
            self._write_checkpoint(Path(filename))
        except InputError as error:
            if not self._survives_full_disk:
                raise
            self.print_to_log_file(f"WARNING: training goes on and tries again later: {error}")

    def _write_checkpoint(self, path: Path) -> None:
        began = time.monotonic()
        logged = self.logger.get_checkpoint()
        content = {
            "network_weights": unwrap(self.network).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": logged,
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            EXPOSURE: self.exposure_entry(),
        }
        if self._midway is not None:  # the epoch will be begun, and logged, again
            content |= {"current_epoch": self.current_epoch, PROGRESS: self._midway}
            content["logging"] = {name: values[: self.current_epoch] for name, values in logged.items()}
        previous = path.with_name(_PREVIOUS) if path.name == _LATEST else None
        write_checkpoint(content, path, previous=previous, again="continue with --c")
        if path.name == _LATEST:
            self._clock.saved(time.monotonic() - began)

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """A full disk inside this block costs a warning: there will be room, or the final checkpoint will tell."""
        self._survives_full_disk = True
        try:
            yield
        finally:
            self._survives_full_disk = False

    def _save_midway(self) -> None:
        """Writes checkpoint_latest.pth with the place in the epoch and the random states of all processes."""
        self._losses.settle()
        mine = {"random": _random_states(self.device), "outputs": self._losses.outputs}
        self._midway = {"iteration": self._iteration, "processes": self.peers.gather(mine)}
        try:
            self.save_checkpoint(str(Path(self.output_folder) / _LATEST))
        finally:
            self._midway = None
            self._clock.saved(0.0)

    def _go_on_midway(self) -> None:
        """Takes up the epoch where the loaded checkpoint was written, if it was in the middle of one."""
        if self._midway is None:
            return
        progress, self._midway = self._midway, None
        self._iteration = progress["iteration"]
        self.print_to_log_file(f"Continuing after step {self._iteration} of epoch {self.current_epoch + 1}.")
        processes = progress["processes"]
        if len(processes) == self.peers.count:
            mine = processes[self.peers.rank]
            self._losses = LossWatch(mine["outputs"])
            _set_random_states(self.device, mine["random"])
        else:  # the run goes on with another number of processes
            steps = zip(*(process["outputs"] for process in processes))
            means = [{name: sum(part[name] for part in step) / len(step) for name in step[0]} for step in steps]
            self._losses = LossWatch(means)
            self.reseed_epoch(self._iteration)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Continues from a checkpoint; if checkpoint_latest.pth is damaged, from the one before it.

        Raises:
            InputError: there is none that belongs to this training.
        """
        found = self._sound(Path(str(filename_or_checkpoint)))
        fault = "" if found.progress is None else fault_of(found.progress, _PLACE)
        try:
            with loading_as_data():
                super().load_checkpoint(str(found.path))
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if fault:
            raise InputError(
                f"{found.path} is no checkpoint of this training ({fault}): restore it, or start anew without --c"
            )
        self.resumed = True
        self._midway = found.progress
        self.recall_exposure(found.exposure)

    def _sound(self, path: Path) -> Checkpoint:
        try:
            return read_checkpoint(path)
        except InputError as error:
            previous = path.with_name(_PREVIOUS)
            if path.name != _LATEST or not previous.is_file():
                raise
            self.print_to_log_file(f"WARNING: {error}; continuing from {previous.name}")
            return read_checkpoint(previous)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """What dropping paths draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states if device.type == "cpu" else states | {device.type: getattr(torch, device.type).get_rng_state()}


def _set_random_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type])
