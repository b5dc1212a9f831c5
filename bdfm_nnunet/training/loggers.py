"""TensorBoard, Weights & Biases and MLflow as further members of nnU-Net's list of loggers.

`training.loggers` names them, or the variable BDFM_LOGGERS, between commas, which overrides the plans. What nnU-Net's
own logger has of an epoch goes to them at its end, pictures when they are drawn. A run that goes on logs to where it
logged before; epochs that they have are not sent twice, and those that they lack are sent first.
"""

import importlib.util
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.settings import LOGGERS_VARIABLE, TrainingSettings, read_block
from bdfm_nnunet.tasks.run_summary import curves_of, settings_of
from bdfm_nnunet.training.log_writers import LogWriter, MlflowWriter, RunPlace, TensorBoardWriter, WandbWriter

WRITERS: dict[str, type[LogWriter]] = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter, "mlflow": MlflowWriter}
FOLDER = "loggers"
_NO_STEP = -1


def chosen_loggers(settings: TrainingSettings) -> tuple[str, ...]:
    """Return the names of the loggers that a training asks for, each once.

    Raises:
        InputError: a name does not exist, the package is not installed, or nnU-Net logs to it already.
    """
    names = settings.loggers
    if (asked := os.environ.get(LOGGERS_VARIABLE)) is not None:
        words = [word.strip() for word in asked.split(",") if word.strip() not in ("", "none")]
        try:
            names = read_block({"training": {"loggers": words}}, "training").loggers
        except InputError as error:
            raise InputError(f"{LOGGERS_VARIABLE}={asked}: {error}, or the word none") from None
    for name in names:
        _check_installed(name)
    if "wandb" in names and os.environ.get("nnUNet_wandb_enabled", "0") in ("1", "True", "true"):
        raise InputError("nnUNet_wandb_enabled=1 and training.loggers both ask for wandb: drop one of them")
    return tuple(dict.fromkeys(names))


def _check_installed(name: str) -> None:
    package = WRITERS[name].package
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"{package} is not installed, but training.loggers or {LOGGERS_VARIABLE} asks for it: "
            f"pip install 'bdfm_nnunet[{name}]', or leave it out",
            entry="logger-missing",
        )


def add_loggers(trainer: Any) -> None:
    """Add what a trainer asks for to nnU-Net's list of loggers; only rank 0 logs.

    Raises:
        InputError: as `chosen_loggers`, in every process.
    """
    names = chosen_loggers(trainer.training)
    if trainer.local_rank == 0:
        trainer.logger.loggers.extend(EpochLogger(name, trainer) for name in names)


class EpochLogger:
    """A member of nnU-Net's list of loggers, which opens its run at the first value and writes whole epochs.

    A fault is an InputError before the first step of a new run; later it is a warning, and this logger is silent from
    then on.

    Args:
        name: a key of `WRITERS`.
        trainer: whose curves it writes.
    """

    def __init__(self, name: str, trainer: Any) -> None:
        self.name = name
        self._trainer = trainer
        self._writer: LogWriter | None = None
        self._end: Callable[[], Any] | None = None
        self._broken = False
        self._last = _NO_STEP  # the last epoch that is written
        self._first = 0  # the first one of this process

    @property
    def _folder(self) -> Path:
        return Path(self._trainer.output_folder) / FOLDER

    @property
    def _state(self) -> Path:
        return self._folder / f"{self.name}.json"

    # --- what nnU-Net calls -------------------------------------------------------------------------------------

    def update_config(self, config: dict[str, Any]) -> None:
        """Do nothing: the settings of the training are written when the run is opened."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Write the epoch whose end was logged, and those before it that are not written yet."""
        self._attempt(lambda: self._write_to(step) if key == "epoch_end_timestamps" else self._open())

    def log_summary(self, key: str, value: Any) -> None:
        """Write a value of the whole run."""
        self._attempt(lambda: self._open().summary(key, value))

    # --- what our tasks call ------------------------------------------------------------------------------------

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG file, unless the run had that epoch before it was interrupted."""

        def write() -> None:
            writer = self._open()
            if step >= self._first:
                writer.picture(name, path, step)

        self._attempt(write)

    def close(self) -> None:
        """End the run, which may go on later."""
        if self._end is not None:
            self._attempt(self._end)
        self._broken = True

    # --- the run ------------------------------------------------------------------------------------------------

    def _open(self) -> LogWriter:
        if self._writer is None:
            trainer, kind = self._trainer, WRITERS[self.name]
            run = None
            if trainer.resumed and self._state.is_file():
                known = read_json(self._state, {"run?": str, "last_epoch": int})
                run, self._last = known.get("run"), known["last_epoch"]
                if kind.forgets:
                    self._last = min(self._last, trainer.current_epoch - 1)
            self._first = self._last + 1
            self._folder.mkdir(exist_ok=True)
            title = f"{trainer.plans_manager.dataset_name} {type(trainer).__name__} {trainer.configuration_name}"
            place = RunPlace(self._folder, f"{title} fold {trainer.fold}", run, self._first, settings_of(trainer))
            self._writer = kind(place)  # type: ignore[call-arg]
            self._remember()
            self._end = weakref.finalize(trainer, self._writer.close)
        return self._writer

    def _remember(self) -> None:
        run = self._writer.run if self._writer else None
        write_json(self._state, ({"run": run} if run else {}) | {"last_epoch": self._last})

    def _write_to(self, step: int) -> None:
        writer, curves = self._open(), curves_of(self._trainer)
        for epoch in range(self._last + 1, step + 1):
            writer.scalars({name: values[epoch] for name, values in curves.items() if epoch < len(values)}, epoch)
            self._last = epoch
        self._remember()

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Do something, but nothing after a fault; a fault is a warning unless a new run has not begun."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if self._writer is None and not self._trainer.resumed:
                raise InputError(
                    f"{self.name} cannot log to {self._folder} ({what}): mend it, or leave it out"
                ) from error
            self._trainer.print_to_log_file(f"WARNING: {self.name} logs no more, training goes on: {what}")
