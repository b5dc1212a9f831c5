"""Costs of a training: of one step and of all steps, kept in a file once they are counted."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bdfm_nnunet import __version__
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json

FILE = "bdfm_costs.json"
MOST_RECORDS = 200
_SHAPE = {
    str: {
        "parameters": int,
        "activation_bytes": int,
        "state_bytes": int,
        "forward_flops": (int, None),
        "backward_flops": (int, None),
    }
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Counted costs of one training step.

    Attributes:
        parameters: number of trainable parameters.
        activation_bytes: bytes that autograd holds at the end of the forward pass, without parameters and buffers.
        state_bytes: bytes of weights, gradients and optimiser state.
        forward_flops: floating-point operations of matrix products and convolutions (a multiply and an add are two);
            None if they were not counted.
        backward_flops: those of the backward pass, including what gradient checkpointing recomputes.
    """

    parameters: int
    activation_bytes: int
    state_bytes: int
    forward_flops: int | None = None
    backward_flops: int | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length of a training.

    Attributes:
        epochs: number of epochs.
        iterations: optimiser steps per epoch.
        val_iterations: validation batches after each epoch.
        batch_size: samples per step.
    """

    epochs: int
    iterations: int
    val_iterations: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the whole training."""
        return self.epochs * self.iterations

    @property
    def samples_per_epoch(self) -> int:
        """Number of training samples per epoch."""
        return self.iterations * self.batch_size

    @property
    def samples(self) -> int:
        """Number of training samples of the whole training."""
        return self.epochs * self.samples_per_epoch

    def hours(self, *, step: float, validation: float) -> float:
        """Return the hours of the whole training, from the seconds of a step and of a validation batch."""
        return self.epochs * (self.iterations * step + self.val_iterations * validation) / 3600


def remembered(folder: Path, what: Any, count: Callable[[], Costs]) -> Costs:
    """Return costs that were counted before; otherwise count them and record them in a file of the folder.

    Counting imports PyTorch, which takes seconds. A file that cannot be read or written is ignored.

    Args:
        folder: folder of the plans.
        what: everything that determines the costs, in JSON types.
        count: function that counts them.
    """
    releases = [__version__, version("torch")]
    key = hashlib.sha256(json.dumps([releases, what], sort_keys=True).encode()).hexdigest()
    known: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        known = read_json(folder / FILE, _SHAPE)
        if key in known:
            return Costs(**{name: known[key][name] for name in _SHAPE[str]})
    costs = count()
    with contextlib.suppress(InputError):
        write_json(folder / FILE, dict([*known.items(), (key, asdict(costs))][-MOST_RECORDS:]))
    return costs
