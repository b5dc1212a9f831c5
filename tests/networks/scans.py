"""Selective scans to compare with: arguments, and a slow definition without any recurrence."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bdfm_nnunet.networks import scan_operations

INTO = {
    torch.ops.bdfm_nnunet.selective_scan.default: scan_operations.scan_forward,
    torch.ops.bdfm_nnunet.selective_scan_backward.default: scan_operations.scan_backward,
}


class Arguments(NamedTuple):
    """Arguments of a scan."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    state: Tensor | None = None

    def given(self) -> list[Tensor]:
        return [value for value in self if value is not None]

    def to(self, *args: Any) -> "Arguments":
        """The same values elsewhere or of another type, as leaves."""
        moved = (None if value is None else value.detach().to(*args) for value in self)
        return Arguments(*(value if value is None else value.requires_grad_() for value in moved))


def arguments(
    count: int, channels: int, states: int, length: int, *, bare: bool = False, one_state: bool = True, seed: int = 0
) -> Arguments:
    """Random arguments in double precision that want gradients; step sizes over two orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x, z = normal(2, count, channels, length)
    delta = (normal(count, channels, length) - 1).exp()
    B, C = normal(2, count, states, length)
    more = () if bare else (normal(channels), z, normal(1 if one_state else count, channels, states))
    given = Arguments(x, delta, -normal(channels, states).exp(), B, C, *more)
    return given.to(torch.float64)


def definition(given: Arguments) -> tuple[Tensor, Tensor]:
    """Outputs and last state of a scan as sums over all earlier steps, which takes length squared of everything.

    What step u leaves of step t is exp(A * sum of delta from u + 1 to t).
    """
    x, delta, A, B, C, D, z, state = given
    length = x.shape[-1]
    summed = delta.cumsum(-1)
    later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    between = (summed[..., :, None] - summed[..., None, :]).masked_fill(later, 0)
    left = (A[:, :, None, None] * between[:, :, None]).exp().masked_fill(later, 0)
    states = torch.einsum("nestu,neu,nsu->nest", left, delta * x, B)
    if state is not None:
        states = states + (A[:, :, None] * summed[:, :, None]).exp() * state[..., None]
    outputs = torch.einsum("nest,nst->net", states, C)
    outputs = outputs if D is None else outputs + D[:, None] * x
    return outputs if z is None else outputs * z / (1 + (-z).exp()), states[..., -1]


class Watch(TorchDispatchMode):
    """Notes what happens inside of scans: how many operations, and the largest tensor that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation in INTO:
            with self:
                return INTO[operation](*args)
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            self.operations += 1
            self.largest = max(self.largest, result.numel() if isinstance(result, Tensor) else 0)
        return result
