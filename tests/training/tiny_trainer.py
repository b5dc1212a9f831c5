"""A trainer that knows nothing of nnU-Net: it fits one number to noisy batches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.training.process_group import ProcessGroup
from bdfm_nnunet.training.run import Run
from bdfm_nnunet.training.saver import LATEST, Saver
from bdfm_nnunet.training.signals import WISHES


class TinyTrainer:
    """All hooks that `Run` calls, and nothing else.

    Args:
        folder: of the run.
        limits: of `Run`.
    """

    num_epochs, num_iterations_per_epoch, num_val_iterations_per_epoch = 2, 4, 2
    disable_checkpointing = False
    local_rank = 0
    device = torch.device("cpu")

    def __init__(self, folder: Path, **limits: float) -> None:
        self.output_folder = str(folder)
        self.told: list[str] = []
        self.processes = ProcessGroup(WISHES)
        self.run = Run(self, **limits)
        self.saver = Saver(folder, self.print_to_log_file)
        self.weight, self.current_epoch = torch.zeros(()), 0
        self.curve: list[list[float]] = []
        self.at: dict[int, Callable[[], Any]] = {}
        self.finished = False

    def print_to_log_file(self, text: str) -> None:
        self.told.append(text)

    def reseed_epoch(self, *keys: int) -> None:
        torch.manual_seed(sum(keys) + 100 * self.current_epoch)

    def on_train_start(self) -> None:
        self.dataloader_train = self._batches(self.run.steps_done)
        self.dataloader_val = self._batches(self.current_epoch * self.num_val_iterations_per_epoch)

    def _batches(self, first: int) -> Iterator[dict[str, Any]]:
        for number in range(first, 100):
            yield {"value": 1 + 0.1 * number, "keys": [f"case{number}"]}

    def on_epoch_start(self) -> None: ...

    def on_train_epoch_start(self) -> None:
        self.run.start_epoch()
        self.reseed_epoch()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        error = self.weight - batch["value"] + torch.randn(())
        self.weight = self.weight - 0.1 * error
        self.at.get(self.run.step_number, lambda: None)()
        return {"loss": error**2}

    def on_train_epoch_end(self, outputs: list[dict[str, float]]) -> None:
        assert len(outputs) == self.num_iterations_per_epoch
        self.curve.append([output["loss"] for output in outputs])

    def on_validation_epoch_start(self) -> None: ...

    def validation_step(self, batch: dict[str, Any]) -> float:
        return float(self.weight - batch["value"])

    def on_validation_epoch_end(self, outputs: list[float]) -> None:
        self.curve[-1] += outputs

    def on_epoch_end(self) -> None:
        self.current_epoch += 1
        self.save_checkpoint(str(self.saver.path(LATEST)))

    def on_train_end(self) -> None:
        self.finished = True

    def save_checkpoint(self, filename: str) -> None:
        if self.disable_checkpointing:
            return
        epoch, midway = self.current_epoch, self.run.midway
        content = {"network_weights": {"weight": self.weight}, "curve": self.curve[:epoch], "current_epoch": epoch}
        if self.saver.write(content | ({"bdfm_progress": midway} if midway else {}), Path(filename)) is not None:
            self.run.saved(0.0)

    def load_checkpoint(self) -> "TinyTrainer":
        found = self.saver.read(self.saver.path(LATEST))
        rest = SimpleNamespace(**torch.load(found.path, weights_only=True))
        self.weight, self.curve, self.current_epoch = found.weights["weight"], rest.curve, rest.current_epoch
        self.run.midway = found.progress
        return self
