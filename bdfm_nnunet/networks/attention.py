"""Attention inside windows with a learned bias, computed a few windows at a time on the CPU.

Shapes: B batch, T tokens of an image, W windows of a group, N tokens of a window, H heads, D channels of a head,
C = H * D.

On a CPU, PyTorch's fused kernels do not differentiate the bias: `scaled_dot_product_attention` falls back to forming
scores, biased scores and probabilities for all windows one after the other, and every pass goes through main memory.
`_WindowAttention` does all steps, including the cutting of windows, for as many windows as fit into the processor's
cache, and keeps only the probabilities for the backward pass, which is written by hand.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bdfm_nnunet.networks.attention_windows import WindowGroup

_BY_HAND = ("cpu", "meta")  # "meta": what is counted is what is done
CACHE_BYTES = 6 << 20
"""Scores that are worked on together: what measured best on processors with 2 MiB of cache a core."""


def window_attention(qkv: Tensor, groups: Sequence[WindowGroup], biases: Sequence[Tensor]) -> Tensor:
    """Return multi-head attention inside windows: softmax(q k^T / sqrt(D) + bias) v.

    Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030), with a learned bias per relative position.

    Args:
        qkv: queries, keys and values of each token side by side, (B, T, 3 C); the last token of an image is its padding
            if a group has padding.
        groups: groups of windows; tokens of one window attend to each other, and every token is in one window.
        biases: biases (H, N, N) that are added to the scores of each group.

    Returns:
        (B, T, C), heads side by side.
    """
    if qkv.device.type in _BY_HAND and not torch.compiler.is_compiling():
        attended: Tensor = _WindowAttention.apply(qkv, groups, *biases)
        return attended
    batch, _, width = qkv.shape
    parts = []
    for group, bias in zip(groups, biases, strict=True):
        count, tokens = group.rows.shape
        part = qkv.index_select(1, group.rows.flatten()).reshape(batch * count, tokens, 3, len(bias), -1)
        query, key, value = part.permute(2, 0, 3, 1, 4).unbind(0)
        part = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(qkv.dtype)[None])
        parts.append(part.transpose(1, 2).reshape(batch, count * tokens, width // 3))
    rows = torch.cat([group.rows.flatten() for group in groups])
    return qkv.new_zeros(*qkv.shape[:2], width // 3).index_copy(1, rows, torch.cat(parts, 1))


class _WindowAttention(torch.autograd.Function):
    """`window_attention` on the CPU."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Sequence[WindowGroup], *biases: Tensor) -> Tensor:
        """See `window_attention`."""
        keep = any(ctx.needs_input_grad)
        scale = (qkv.shape[-1] // 3 // len(biases[0])) ** -0.5
        source = qkv.flatten(0, 1)
        attended = source.new_zeros(len(source), qkv.shape[-1] // 3)
        kept: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for group, bias in zip(groups, biases, strict=True):
                work = _Work(group, bias, qkv)
                probabilities = work.empty(whole=keep)
                scores = work.empty(whole=False)
                for rows, place in work:
                    query, key, value = _cut(source, rows, len(bias), parts=3)
                    part = scores[: len(query)]
                    here = probabilities[place] if keep else probabilities[: len(query)]
                    split = part.unflatten(0, (-1, len(bias)))
                    split.copy_(bias.expand_as(split))
                    torch.baddbmm(part, query, key.transpose(1, 2), alpha=scale, out=part)
                    torch.softmax(part, -1, out=here)
                    _paste(torch.bmm(here, value), attended, rows, len(bias))
                kept.append(probabilities)
        if keep:
            ctx.save_for_backward(qkv, attended, *biases, *kept)
            ctx.groups, ctx.scale = groups, scale
        return attended.unflatten(0, qkv.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of qkv and of the biases: with dP = dO v^T, dS = P (dP - sum(dO O))."""
        qkv, attended, *others = ctx.saved_tensors
        biases, kept = others[: len(ctx.groups)], others[len(ctx.groups) :]
        source, gradient = qkv.flatten(0, 1), gradient.flatten(0, 1)
        of_source = torch.zeros_like(source)
        of_biases = []
        heads = len(biases[0])
        products = (gradient * attended).unflatten(1, (heads, -1)).sum(-1)  # (B * T, H)
        with torch.autocast("cpu", enabled=False):
            for group, bias, probabilities in zip(ctx.groups, biases, kept, strict=True):
                work = _Work(group, bias, qkv)
                buffer = work.empty(whole=False)
                of_bias = torch.zeros_like(bias)
                for rows, place in work:
                    query, key, value = _cut(source, rows, heads, parts=3)
                    (incoming,) = _cut(gradient, rows, heads, parts=1)
                    (sums,) = _cut(products, rows, heads, parts=1)
                    here, of_scores = probabilities[place], buffer[: len(query)]
                    of_value = torch.bmm(here.transpose(1, 2), incoming)
                    torch.baddbmm(sums, incoming, value.transpose(1, 2), beta=-1, out=of_scores)
                    of_scores.mul_(here)
                    of_bias += of_scores.unflatten(0, (-1, heads)).sum(0, dtype=bias.dtype)
                    of_query = torch.bmm(of_scores, key).mul_(ctx.scale)
                    of_key = torch.bmm(of_scores.transpose(1, 2), query).mul_(ctx.scale)
                    of_parts = torch.stack([of_query, of_key, of_value])
                    _paste(of_parts, of_source, rows, heads, add=group.padded)
                of_biases.append(of_bias)
        return of_source.unflatten(0, qkv.shape[:2]), None, *of_biases


class _Work:
    """Windows of a group over a batch, as many at once as `CACHE_BYTES` allows."""

    def __init__(self, group: WindowGroup, bias: Tensor, qkv: Tensor) -> None:
        batch, length, _ = qkv.shape
        self.heads, self.tokens = bias.shape[:2]
        starts = torch.arange(batch, device=group.rows.device)[:, None, None] * length
        self.rows = (group.rows[None] + starts).flatten(0, 1)  # (B * W, N), tokens of all images
        size = self.heads * self.tokens**2 * qkv.element_size()
        room = len(self.rows) if qkv.is_meta else max(CACHE_BYTES // size, 1)  # what has no content needs no room
        self.step = min(room, len(self.rows))
        self.like = qkv

    def empty(self, *, whole: bool) -> Tensor:
        """Return an empty tensor for the scores of all windows, or of those worked on at once."""
        count = len(self.rows) if whole else self.step
        return self.like.new_empty(count * self.heads, self.tokens, self.tokens)

    def __iter__(self) -> Iterator[tuple[Tensor, slice]]:
        """Yield token numbers (w, N) and the slice of these windows among the scores."""
        for first in range(0, len(self.rows), self.step):
            rows = self.rows[first : first + self.step]
            yield rows, slice(first * self.heads, (first + len(rows)) * self.heads)


def _cut(source: Tensor, rows: Tensor, heads: int, *, parts: int) -> tuple[Tensor, ...]:
    """Return rows (w, N) of a table with (parts * C) columns as `parts` tensors (w * H, N, D)."""
    cut = source.index_select(0, rows.flatten()).unflatten(0, rows.shape)
    cut = cut.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
    return cut.flatten(1, 2).unbind(0)


def _paste(values: Tensor, target: Tensor, rows: Tensor, heads: int, *, add: bool = False) -> None:
    """Write (parts, w * H, N, D), or (w * H, N, D), into rows of a table; the inverse of `_cut`."""
    values = values.reshape(-1, len(rows), heads, *values.shape[-2:])
    values = values.permute(1, 3, 0, 2, 4).reshape(rows.numel(), -1)
    (target.index_add_ if add else target.index_copy_)(0, rows.flatten(), values)
