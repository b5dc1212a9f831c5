"""The selective scan of Mamba: h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t, y_t = C_t h_t + D x_t."""

import torch
from torch import Tensor
from torch.nn import functional


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
    """Return the outputs of a selective scan along the last axis, and its last state if asked.

    Args:
        x: (N, channels, length).
        delta: step sizes like x, after softplus.
        A: (channels, states), negative.
        B: (N, states, length).
        C: (N, states, length).
        D: (channels,), what of x is added to the output.
        z: like x; its SiLU gates the output.
        state: (N or 1, channels, states), at the start; zero if left out.
        return_state: also return the last state (N, channels, states), in float32 or better.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    decays, current = A.to(kind), torch.zeros(len(x), *A.shape, dtype=kind, device=x.device)
    if state is not None:
        current = current + state.to(kind)
    inputs, steps, B, C = (value.to(kind) for value in (x, delta, B, C))
    outputs = []
    for time in range(x.shape[-1]):
        step = steps[..., time, None]
        current = torch.exp(step * decays) * current + step * inputs[..., time, None] * B[:, None, :, time]
        outputs.append((current * C[:, None, :, time]).sum(-1))
    result = torch.stack(outputs, -1)
    if D is not None:
        result = result + inputs * D.to(kind)[:, None]
    result = (result if z is None else result * functional.silu(z.to(kind))).to(x.dtype)
    return (result, current) if return_state else result
