"""Precision of training: the type in which it computes, and the scaling of gradients that fp16 needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bdfm_nnunet.number_types import multiplies_bf16, name_of, type_named

T = TypeVar("T")


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type to which `precision` lets the device drop, or None for full precision."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        precision = "bf16" if multiplies_bf16("cuda") else "fp16"
    return type_named(precision, device.type)


class Precision:
    """The type in which a device computes, and the scaling of gradients that fp16 needs.

    Args:
        kind: of matrix products and convolutions; None for full precision.
        device: where the training runs.
        scaler: nnU-Net's scaler of gradients; kept where fp16 on CUDA needs it.
    """

    def __init__(self, kind: torch.dtype | None, device: torch.device, scaler: Any = None) -> None:
        self.autocast_type = kind
        self.device = device
        self.scaler = scaler if kind is torch.float16 and device.type == "cuda" else None

    @property
    def name(self) -> str:
        """How settings name the type: "fp32", "bf16" or "fp16"."""
        return name_of(self.autocast_type)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network runs."""
        return (
            nullcontext() if self.autocast_type is None else torch.autocast(self.device.type, dtype=self.autocast_type)
        )

    def within(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function that runs in that context."""

        @wraps(function)
        def run(*arguments: Any) -> T:
            with self.autocast():
                return function(*arguments)

        return run

    def backward(self, loss: Tensor) -> None:
        """Differentiate a loss, scaled where need be."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def descend(self, optimizer: torch.optim.Optimizer, *, clip: float) -> Tensor:
        """Clip the gradient and take the step; return the norm before."""
        parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
        if self.scaler is None:
            norm = clip_grad_norm_(parameters, clip)
            optimizer.step()
            return norm.detach()
        self.scaler.unscale_(optimizer)
        norm = clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm.detach()
