"""A perceptron after a LayerNorm that keeps only its input, and computes the rest again in the backward pass.

This is for the CPU, where weights, gradients and moments leave a step of visible tokens little room below the memory of
a step of all tokens; on an accelerator it is the number of kernels that counts, and the layers are called one after the
other. Values and gradients are the same.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_BY_HAND = ("cpu", "meta")  # "meta": what is counted is what is done
KEPT_FROM = 256
"""Channels from which the output of a first layer is kept: to compute it again costs as many products a number.

Wide layers also have few tokens, so there is little to save.
"""


def by_hand(tokens: Tensor) -> bool:
    """Return whether gradients of these tokens are computed by hand, which saves memory but starts more kernels."""
    return tokens.device.type in _BY_HAND


def normed_perceptron(tokens: Tensor, norm: nn.LayerNorm, perceptron: nn.Sequential) -> Tensor:
    """Return perceptron(norm(tokens)) of two linear layers with a GELU between them, (..., C) to the same shape."""
    out: Tensor
    if by_hand(tokens):
        first, second = (working(tokens, perceptron[i]) for i in (0, 2))
        out = _NormedPerceptron.apply(tokens, norm.weight, norm.bias, *first, *second, norm.eps)
    else:
        out = perceptron(norm(tokens))
    return out


def working(tokens: Tensor, linear: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear layer in the type in which it works, as autocast would."""
    dtype = tokens.dtype
    if tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu") and dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    assert isinstance(linear, nn.Linear)
    return linear.weight.to(dtype), linear.bias.to(dtype)


class _NormedPerceptron(torch.autograd.Function):
    """`normed_perceptron`; the hidden layer is kept if it is wide, its GELU never."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        scale: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor,
        last_weight: Tensor,
        last_bias: Tensor,
        eps: float,
    ) -> Tensor:
        """Map (..., C) to the same shape."""
        with torch.autocast("cpu", enabled=False):
            normed = functional.layer_norm(tokens, scale.shape, scale, offset, eps)
            hidden = functional.linear(normed.to(weight.dtype), weight, bias)
            kept = [hidden] if tokens.shape[-1] >= KEPT_FROM else []
            ctx.save_for_backward(tokens, scale, offset, weight, bias, last_weight, *kept)
            ctx.eps = eps
            return functional.linear(functional.gelu(hidden), last_weight, last_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of tokens, norm and both layers."""
        tokens, scale, offset, weight, bias, last_weight, *kept = ctx.saved_tensors
        normed, moments = normed_again(tokens, scale, offset, ctx.eps)
        hidden = kept[0] if kept else functional.linear(normed.to(weight.dtype), weight, bias)
        of_hidden, of_last, of_last_bias = through_linear(gradient, functional.gelu(hidden), last_weight)
        of_hidden = torch.ops.aten.gelu_backward(of_hidden, hidden)
        del hidden, kept
        of_normed, of_weight, of_bias = through_linear(of_hidden, normed, weight)
        of_norm = through_norm(of_normed, tokens, scale, offset, moments)
        return *of_norm, of_weight, of_bias, of_last, of_last_bias, None


def normed_again(tokens: Tensor, scale: Tensor, offset: Tensor, eps: float) -> tuple[Tensor, list[Tensor]]:
    """Return the normalised tokens, and mean and inverse deviation of each."""
    normed, *moments = torch.native_layer_norm(tokens, scale.shape, scale, offset, eps)
    return normed, moments


def through_linear(gradient: Tensor, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a linear layer's input, weight and bias."""
    rows = gradient.flatten(0, -2)
    of_weight = rows.T @ inputs.flatten(0, -2).to(rows.dtype)
    return (rows @ weight).reshape(inputs.shape), of_weight, rows.sum(0)


def through_norm(
    gradient: Tensor, tokens: Tensor, scale: Tensor, offset: Tensor, moments: list[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradients of a LayerNorm's input, scale and offset."""
    gradients: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
        gradient.to(tokens.dtype), tokens, scale.shape, *moments, scale, offset, [True, True, True]
    )
    return gradients
