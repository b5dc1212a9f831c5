"""What a training costs, as numbers: of one step, of all steps, and kept in a file once they are counted."""

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
        parameters: trainable numbers.
        activation_bytes: storages that autograd holds when the forward pass ends, parameters and buffers excluded.
        state_bytes: weights, gradients and optimiser state.
        forward_flops: floating-point operations of the matrix products and convolutions (a multiply and an add are
            two), or None where they were not counted.
        backward_flops: those of the backward pass, with what gradient checkpointing computes again.
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
        epochs: of the whole training.
        iterations: optimiser steps in an epoch.
        val_iterations: validation batches after each epoch.
        batch_size: samples of a step.
    """

    epochs: int
    iterations: int
    val_iterations: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.iterations

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch trains on."""
        return self.iterations * self.batch_size

    @property
    def samples(self) -> int:
        """Samples that the whole training trains on."""
        return self.epochs * self.samples_per_epoch

    def hours(self, *, step: float, validation: float) -> float:
        """Length of the whole training from the seconds of a step and of a validation batch."""
        return self.epochs * (self.iterations * step + self.val_iterations * validation) / 3600


def remembered(folder: Path, what: Any, count: Callable[[], Costs]) -> Costs:
    """Return costs that were counted before, else count them and note them in a file of the folder.

    Counting imports PyTorch, which takes seconds. A file that cannot be read or written is as good as none.

    Args:
        folder: of the plans.
        what: everything that the costs follow from, as JSON knows it.
        count: counts them.
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
