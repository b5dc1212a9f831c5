"""Trainings of small networks by a strategy, without nnU-Net."""

from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.networks.encoders import suited_optimizer, unwrap
from bdfm_nnunet.settings import FinetuningSettings, TrainingSettings
from bdfm_nnunet.tasks.task import Task
from bdfm_nnunet.training.strategies import Strategy

SIZE = (16, 16, 16)


class _Tuned(Task):
    finetuning = FinetuningSettings()


class Staged:
    """What a `Strategy` asks of a trainer, and steps on random images.

    Args:
        network: it trains in place.
        epochs: of two steps each.
        training: names of the "training" block.
        finetuning: names of the "finetuning" block.
    """

    def __init__(self, network: nn.Module, *, epochs: int = 4, training: Any = None, **finetuning: Any) -> None:
        self.network, self.num_epochs, self.device = network, epochs, torch.device("cpu")
        self.training = TrainingSettings(**{"initial_lr": 0.01, "warmup_epochs": 0} | (training or {}))
        self.task = _Tuned(self)
        self.task.finetuning = FinetuningSettings(**finetuning)
        self.told: list[str] = []
        self.strategy = Strategy(self)
        self.optimizer, self.lr_scheduler = self.strategy.begin()
        self.epoch = 0

    @property
    def optimizer_kind(self) -> Any:
        return suited_optimizer(self.network) if self.training.optimizer == "auto" else self.training.optimizer

    def print_to_log_file(self, line: str, **options: Any) -> None:
        self.told.append(line)

    def train(self, epochs: int = 1, *, rank: int = 0, world: int = 1) -> "Staged":
        """Trains further epochs on this process's share of batches of two images."""
        for _ in range(epochs):
            self.strategy.reach(self.epoch)
            torch.manual_seed(self.epoch)  # of dropped paths
            self.network.train()
            self.strategy.hold_still()
            for step in range(2):
                self.lr_scheduler.step(self.epoch + (step + 1) / 2)
                images = torch.randn(2, self.channels, *SIZE, generator=torch.Generator().manual_seed(step))
                self.optimizer.zero_grad(set_to_none=True)
                self._loss(images[rank::world]).backward()
                self.optimizer.step()
            self.epoch += 1
        return self

    @property
    def channels(self) -> int:
        kernels = (each for each in unwrap(self.network).encoder.parameters() if each.ndim > 2)
        return int(next(kernels).shape[1])

    def _loss(self, images: Tensor) -> Tensor:
        outputs = self.network(images)
        logits, *coarser = outputs if isinstance(outputs, list) else [outputs]
        target = (images[:, :1] > 0).float() - 0.5
        return sum((each.square().mean() for each in coarser), (logits - target).square().mean())

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, as copies."""
        state = {name: value.clone() for name, value in unwrap(self.network).state_dict().items()}
        strategy = self.strategy.state()
        strategy = {**strategy, "low_rank": _copied(strategy["low_rank"])} if "low_rank" in strategy else strategy
        optimizer = self.optimizer.state_dict()
        return {"weights": state, "optimizer": _copied(optimizer), "strategy": strategy, "epoch": self.epoch}

    def load(self, saved: dict[str, Any]) -> "Staged":
        """Goes on from there, in the order of our trainers."""
        self.strategy.recall(saved["strategy"])
        unwrap(self.network).load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.strategy.recall_low_rank(saved["strategy"])
        self.epoch = saved["epoch"]
        return self


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.clone() if isinstance(value, Tensor) else value


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the state whose bits are others than before."""
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's state."""
    return {name: value.clone() for name, value in network.state_dict().items()}
