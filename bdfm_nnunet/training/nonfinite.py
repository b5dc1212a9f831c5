"""Losses that are not finite: each is checked one step late on the host, so that nobody waits for the GPU."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Step:
    number: int
    keys: tuple[str, ...]
    names: tuple[str, ...]
    values: Tensor
    arrived: Any


class LossWatch:
    """The losses of an epoch.

    Attributes:
        outputs: name to value for each step, in order; those of the last step may still be on their way.
        broken: steps with a value that is not finite: "step", "keys" (the cases) and "terms", as JSON takes them.
    """

    def __init__(self, outputs: Sequence[Mapping[str, float]] = ()) -> None:
        self.outputs: list[dict[str, float]] = [dict(output) for output in outputs]
        self.broken: list[dict[str, Any]] = []
        self._coming: deque[_Step] = deque()

    def put(self, number: int, keys: Sequence[str], terms: Mapping[str, Tensor]) -> None:
        """Take the terms of a step, scalars on any device, and check those of the step before."""
        values = torch.stack([term.detach().float().reshape(()) for term in terms.values()])
        arrived = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._coming.append(_Step(number, tuple(map(str, keys)), tuple(terms), values, arrived))
        while len(self._coming) > (0 if arrived is None else 1):
            self._look()

    def settle(self) -> None:
        """Check all that was put."""
        while self._coming:
            self._look()

    def _look(self) -> None:
        step = self._coming.popleft()
        if step.arrived is not None:
            step.arrived.synchronize()
        terms = dict(zip(step.names, step.values.tolist(), strict=True))
        self.outputs.append(terms)
        if not all(map(math.isfinite, terms.values())):
            shown = {name: value if math.isfinite(value) else str(value) for name, value in terms.items()}
            self.broken.append({"step": step.number, "keys": list(step.keys), "terms": shown})
