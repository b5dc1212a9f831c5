"""Gradient checkpointing that, for counting costs, avoids PyTorch's compiler and its two seconds of imports."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[[Tensor], Tensor], features: Tensor, *, preserve_rng_state: bool = True) -> Tensor:
    """Call a function and recompute its activations in the backward pass instead of keeping them.

    Args:
        function: function of one tensor.
        features: its argument.
        preserve_rng_state: whether to draw the same random numbers again; needed if the function draws any.
    """
    if features.is_meta and features.requires_grad:
        told: Tensor = _Recomputed.apply(features, function)
        return told
    return checkpoint(function, features, use_reentrant=False, preserve_rng_state=preserve_rng_state)


class _Recomputed(torch.autograd.Function):
    """Recomputation for meta tensors, whose random numbers cannot differ."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """See `recomputed`."""
        ctx.save_for_backward(features)
        ctx.function = function
        return function(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        """Return the gradient of the argument; gradients of the function's parameters are added to theirs."""
        with torch.enable_grad():
            features = ctx.saved_tensors[0].detach().requires_grad_()
            (ctx.function(features) * gradient).sum().backward()
        return features.grad, None
