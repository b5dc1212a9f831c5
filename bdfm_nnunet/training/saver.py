"""Checkpoints of a run: there is always a whole one, and a full disk does not end a training of weeks."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE, PROGRESS, STRATEGY
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.encoders import unwrap

LATEST, PREVIOUS, BEST, FINAL = (f"checkpoint_{name}.pth" for name in ("latest", "previous", "best", "final"))
_PLACE = {"iteration": int, "processes": [{"random": dict, "outputs": [dict]}]}
"""The shape of what a checkpoint from the middle of an epoch says about its place."""


class Saver:
    """The writer and reader of the checkpoints in one folder.

    Args:
        folder: of the fold.
        tell: takes a sentence for the log.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self._tell = tell
        self._spares = False

    def path(self, name: str) -> Path:
        """Return where the checkpoint of a name lies."""
        return self.folder / name

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Make a full disk inside this block a warning: there will be room, or the final checkpoint will tell."""
        self._spares = True
        try:
            yield
        finally:
            self._spares = False

    def write(self, content: Mapping[str, Any], path: Path) -> float | None:
        """Write a checkpoint, whole or not at all; the last checkpoint_latest.pth but one stays beside it.

        Returns:
            The seconds it took; None where it was not written.

        Raises:
            InputError: it cannot be written; inside `spared` a warning.
        """
        began = time.monotonic()
        previous = path.with_name(PREVIOUS) if path.name == LATEST else None
        try:
            write_checkpoint(content, path, previous=previous, again="continue with --c")
        except InputError as error:
            if not self._spares:
                raise
            self._tell(f"WARNING: training goes on and tries again later: {error}")
            return None
        return time.monotonic() - began

    def read(self, path: Path) -> Checkpoint:
        """Read a checkpoint; where checkpoint_latest.pth is damaged, the one before it.

        Raises:
            InputError: there is none that can be used.
        """
        try:
            return _with_a_place(read_checkpoint(path))
        except InputError as error:
            previous = path.with_name(PREVIOUS)
            if path.name != LATEST or not previous.is_file():
                raise
            self._tell(f"WARNING: {error}; continuing from {previous.name}")
            return _with_a_place(read_checkpoint(previous))

    def remove_previous(self) -> None:
        """Remove the last checkpoint but one, once the final one is written."""
        self.path(PREVIOUS).unlink(missing_ok=True)


def checkpoint_content(trainer: Any) -> dict[str, Any]:
    """Return nnU-Net's checkpoint of a trainer, with the cases seen, what its task adds and the place in an epoch."""
    logged, midway = trainer.logger.get_checkpoint(), trainer.run.midway
    content = {
        "network_weights": unwrap(trainer.network).state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": logged,
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch + 1,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        EXPOSURE: trainer.data.exposure.as_dict(),
        **trainer.task.checkpoint_entries(),
    }
    if strategy := trainer.strategy.state():
        content[STRATEGY] = strategy
    if midway is not None:  # the epoch will be begun, and logged, again
        content |= {"current_epoch": trainer.current_epoch, PROGRESS: midway}
        content["logging"] = {name: values[: trainer.current_epoch] for name, values in logged.items()}
    return content


def not_of_this_training(path: Path, fault: str) -> InputError:
    """Return the refusal of a checkpoint that a training cannot go on from."""
    return InputError(f"{path} is no checkpoint of this training ({fault}): restore it, or start anew without --c")


def _with_a_place(checkpoint: Checkpoint) -> Checkpoint:
    fault = "" if checkpoint.progress is None else fault_of(checkpoint.progress, _PLACE)
    if fault:
        raise not_of_this_training(checkpoint.path, fault)
    return checkpoint
