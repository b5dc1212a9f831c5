"""The selective scan of Mamba-1, in plain PyTorch or by the kernel of mamba-ssm where that can be imported.

Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, https://arxiv.org/abs/2312.00752,
algorithm 2. Per channel and state: h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, and y_t = sum of C_t h_t over the
states, plus D x_t.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bdfm_nnunet.networks import mamba_kernel, scan_operations  # noqa: F401 (the second defines torch.ops)


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the outputs of a selective scan along the last axis, and the state at its end if asked.

    The states are in single precision or better, under autocast too. For the backward pass only the arguments and every
    16th state are kept. Any step size is fine: what underflows becomes zero.

    Args:
        x: inputs (N, channels, length).
        delta: step sizes like x, after softplus.
        A: (channels, states), negative.
        B: how much of an input enters each state, (N, states, length).
        C: how much of each state is put out, (N, states, length).
        D: how much of x is added to the outputs, (channels,).
        z: like x; the outputs are multiplied by its SiLU.
        state: at the start, (N or 1, channels, states); zero by default.
        return_state: also return the state at the end, (N, channels, states).

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0, 0.0]]])
        >>> one = torch.ones(1, 1, 3)
        >>> selective_scan(x, one, torch.tensor([[-0.6931]]), one, one)
        tensor([[[1.0000, 0.5000, 0.2500]]])
    """
    _check(x, delta, A, B, C, D, z, state)
    if mamba_kernel.serves(x, delta, A, state):
        return mamba_kernel.scan(x, delta, A, B, C, D, z, return_state=return_state)
    tensors = (x, delta, A, B, C, D, z, state)
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in tensors)
    if keep:
        outputs, last = _SelectiveScan.apply(*tensors)
    else:
        outputs, last, _ = torch.ops.bdfm_nnunet.selective_scan(*tensors, False)
    return (outputs, last) if return_state else outputs


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, state: Any
    ) -> tuple[Tensor, Tensor]:
        outputs, last, starts = torch.ops.bdfm_nnunet.selective_scan(x, delta, A, B, C, D, z, state, True)
        ctx.save_for_backward(x, delta, A, B, C, D, z, starts)
        ctx.state = None if state is None else (len(state), state.dtype)
        ctx.set_materialize_grads(False)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, last: Tensor | None) -> Any:
        *inputs, starts = ctx.saved_tensors
        if gradient is None:
            gradient = torch.zeros_like(inputs[0])
        wanted = ctx.needs_input_grad
        *found, of_state = torch.ops.bdfm_nnunet.selective_scan_backward(*inputs, starts, gradient, last, wanted[2])
        if ctx.state is not None:
            count, kind = ctx.state
            of_state = (of_state if count == len(of_state) else of_state.sum(0, keepdim=True)).to(kind)
        return tuple(value if want else None for value, want in zip((*found, of_state), wanted, strict=True))


def _check(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, state: Tensor | None
) -> None:
    if x.ndim != 3 or A.ndim != 2:
        raise ValueError(f"x is (N, channels, length) and A (channels, states), not {list(x.shape)}, {list(A.shape)}")
    count, channels, length = x.shape
    states = A.shape[1]
    expected = {
        "delta": (delta, [[count, channels, length]]),
        "A": (A, [[channels, states]]),
        "B": (B, [[count, states, length]]),
        "C": (C, [[count, states, length]]),
        "D": (D, [[channels]]),
        "z": (z, [[count, channels, length]]),
        "state": (state, [[count, channels, states], [1, channels, states]]),
    }
    for name, (value, shapes) in expected.items():
        if value is not None and list(value.shape) not in shapes:
            raise ValueError(
                f"{name} is {list(value.shape)} where x is {list(x.shape)} and A {list(A.shape)}: "
                f"it must be {' or '.join(map(str, shapes))}"
            )
