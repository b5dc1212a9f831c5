"""The selective scan and its backward pass as operations of PyTorch, which counters and compilers see as a whole.

Shapes: N sequences, E channels, S states, L steps, K chunks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from bdfm_nnunet.networks.scan_schedules import ScanInputs, chunks_of, scan, scan_gradients

_INPUTS = "Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z"
_LIBRARY = torch.library.Library("bdfm_nnunet", "FRAGMENT")
_LIBRARY.define(f"selective_scan({_INPUTS}, Tensor? state, bool keep) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"selective_scan_backward({_INPUTS}, Tensor starts, Tensor gradient, Tensor? last, bool rates) -> Tensor[]"
)

FORWARD_OPERATIONS = 7
"""Floating-point operations a step and number of a state: exponent, exponential, decay, input (2), output (2)."""

BACKWARD_OPERATIONS = 19
"""Five to compute the state again, three for its gradient and what arrives of it a step ago, two each for the gradients
of B, C and what drives the state, one for that of the exponent, and two each for what this gives to delta and A."""


def scan_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    state: Tensor | None, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return outputs (N, E, L), the state at the end (N, E, S) and, if kept, those at the starts of chunks."""
    inputs = ScanInputs(x, delta, A, B, C, D, z)
    current = x.new_zeros(len(x), A.shape[1], A.shape[0], dtype=inputs.kind)
    if state is not None:
        current.copy_(state.transpose(1, 2))
    with _without_autocast(x):
        outputs, starts = scan(inputs, current, keep=keep)
    return outputs, current.transpose(1, 2).contiguous(), starts


def scan_backward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    starts: Tensor, gradient: Tensor, last: Tensor | None, rates: bool,
) -> list[Tensor]:  # fmt: skip
    """Return gradients of x, delta, A, B, C, D, z and of the state (N, E, S), empty for what is not given."""
    inputs = ScanInputs(x, delta, A, B, C, D, z)
    carry = x.new_zeros(len(x), A.shape[1], A.shape[0], dtype=inputs.kind)
    if last is not None:
        carry.copy_(last.transpose(1, 2))
    with _without_autocast(x):
        found = scan_gradients(inputs, starts, gradient, carry, rates_wanted=rates)
    of_A = found.rates.t().to(A.dtype).contiguous()
    of_D = x.new_empty(0) if D is None else found.skip.to(D.dtype)
    of_z = x.new_empty(0) if found.z is None else found.z
    return [found.x, found.delta, of_A, found.B, found.C, of_D, of_z, found.state.transpose(1, 2).contiguous()]


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which products keep the type of the state."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _forward_shapes(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, state: Any, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kind = ScanInputs(x, delta, A, B, C, D, z).kind
    starts = x.new_empty(chunks_of(x.shape[2]) if keep else 0, len(x), A.shape[1], A.shape[0], dtype=kind)
    return torch.empty_like(x), x.new_empty(len(x), *A.shape, dtype=kind), starts


def _backward_shapes(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, starts: Tensor, *others: Any
) -> list[Tensor]:
    of_D, of_z = (x.new_empty(0) if value is None else torch.empty_like(value) for value in (D, z))
    of_A = torch.empty_like(A, memory_format=torch.contiguous_format)
    of_x, of_delta, of_B, of_C = (torch.empty_like(value) for value in (x, delta, B, C))
    return [of_x, of_delta, of_A, of_B, of_C, of_D, of_z, starts.new_empty(len(x), *A.shape)]


for _name, _run, _shapes in (
    ("selective_scan", scan_forward, _forward_shapes),
    ("selective_scan_backward", scan_backward, _backward_shapes),
):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, _shapes, "Meta")


@register_flop_formula(torch.ops.bdfm_nnunet.selective_scan)
def _forward_flops(x: Any, delta: Any, A: Any, *others: Any, out_shape: Any = None) -> int:
    count, channels, length = x
    return int(FORWARD_OPERATIONS * count * length * channels * A[1])


@register_flop_formula(torch.ops.bdfm_nnunet.selective_scan_backward)
def _backward_flops(x: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, *others: Any, **out: Any) -> int:
    count, channels, length = x
    outputs_again = 0 if z is None else 2
    return int((BACKWARD_OPERATIONS + outputs_again) * count * length * channels * A[1])
