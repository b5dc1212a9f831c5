"""Optimisers and the learning-rate schedule, as functions of the settings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.networks.primus_encoder import PrimusEncoder
from bdfm_nnunet.training.lars import LARS

Named = Iterator[tuple[str, nn.Parameter]]
_TABLES = (
    "bias_table", "mask_token.value", "mask_tokens.window", "pos_embed", "positions.space", "positions.time",
    "register_tokens", "A_log", "prompt",
)  # fmt: skip
"""Endings of the names of parameters with several axes that are no kernels; of a scan, A_log are logarithms of rates
and D a skip connection: neither decays in the code of Mamba's authors."""
OptimizerKind = Literal["adamw", "sgd", "lars"]


def parameter_groups(parts: Mapping[str, tuple[Named, float]], *, weight_decay: float) -> list[dict[str, object]]:
    """Return groups for an optimiser, two for each part: kernels decay, biases, norms, tables and tokens do not.

    Args:
        parts: name -> (named parameters, learning rate). A parameter counts in the first part that has it.
        weight_decay: of the parameters that decay.
    """
    groups: list[dict[str, object]] = []
    seen: set[int] = set()
    for part, (named, rate) in parts.items():
        decaying: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in named:
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            vector = parameter.ndim < 2 or name.endswith(_TABLES)
            (free if vector else decaying).append(parameter)
        for suffix, parameters, decay in (("", decaying, weight_decay), ("_no_decay", free, 0.0)):
            if parameters:
                groups.append(
                    {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay, "name": part + suffix}
                )
    return groups


@dataclass(frozen=True)
class Habits:
    """Figures that go with a kind of encoder, where the settings name none.

    Attributes:
        betas: of AdamW.
        clip: largest norm of the gradients.
        first_tooth: peak rate of a sawtooth's first stage, relative to that of the second.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 12.0
    first_tooth: float = 1.0

    @classmethod
    def of(cls, network: nn.Module) -> "Habits":
        """Return those of a network: a Primus has other ones, from the development branch of nnU-Net."""
        plain = isinstance(getattr(unwrap(network), "encoder", None), PrimusEncoder)
        return cls(betas=(0.9, 0.98), clip=1.0, first_tooth=0.01) if plain else cls()


def build_optimizer(
    kind: OptimizerKind, groups: list[dict[str, object]], *, betas: tuple[float, float] = Habits.betas
) -> Optimizer:
    """Return AdamW, SGD with nnU-Net's Nesterov momentum, or LARS; all parameters in one pass where the device can.

    LARS neither decays nor adapts what does not decay in the others either: biases, norms, tables and tokens.
    """
    if kind == "lars":
        adapting = [group | {"adapt": not str(group.get("name", "")).endswith("_no_decay")} for group in groups]
        return LARS(adapting, lr=cast(float, groups[0]["lr"]))
    devices = {parameter.device.type for group in groups for parameter in cast(list[nn.Parameter], group["params"])}
    fused = devices <= {"cpu", "cuda"}
    if kind == "adamw":
        return AdamW(groups, betas=betas, fused=fused)
    return SGD(groups, momentum=0.99, nesterov=True, fused=fused)


class WarmupSchedule:
    """A linear warm-up, then a decay to zero: a pure function of the time, so a resumed run needs no state.

    Args:
        optimizer: its groups carry their peak rate as "peak_lr".
        epochs: length of the run.
        warmup_epochs: length of the warm-up.
        decay: "poly" with exponent 0.9, as nnU-Net, or "cosine".
        start: epoch of the training in which the run begins, if it is a stage of it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        epochs: int,
        warmup_epochs: float,
        decay: Literal["poly", "cosine"],
        *,
        start: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.start = start
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.decay = decay

    def factor(self, epoch: float) -> float:
        """Return the rate after `epoch` epochs of the training (whole or not), relative to its peak."""
        epoch -= self.start
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        share = min((epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9), 1.0)
        return (1 - share) ** 0.9 if self.decay == "poly" else 0.5 * (1 + math.cos(math.pi * share))

    def step(self, epoch: float) -> None:
        """Set the rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.factor(epoch)
