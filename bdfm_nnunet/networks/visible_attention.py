"""Attention inside pieces of windows of which only some tokens are visible, computed a few pieces at a time on the CPU.

Shapes: R rows (visible tokens of the batch), P pieces, L tokens of the longest piece, H heads, D channels of a head,
C = H * D, E columns of the bias table. Pieces differ in their tokens, so each reads its own biases from the table.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bdfm_nnunet.frequency import at_least_single
from bdfm_nnunet.networks import attention
from bdfm_nnunet.networks.recomputed_layers import (
    KEPT_FROM,
    by_hand,
    normed_again,
    through_linear,
    through_norm,
    working,
)
from bdfm_nnunet.networks.visible_tokens import Pieces

_AT_ONCE = 3
"""Scores, probabilities and their gradients, which share the cache: here none of them is kept for the backward pass."""


def visible_attention(tokens: Tensor, norm: nn.LayerNorm, linear: nn.Linear, pieces: Pieces, table: Tensor) -> Tensor:
    """Return multi-head attention among the visible tokens of each piece: softmax(q k^T / sqrt(D) + bias) v.

    Args:
        tokens: visible tokens, (R, C).
        norm: is applied to them first.
        linear: layer that gives queries, keys and values of each token side by side, (R, 3 C).
        pieces: pieces of windows; every row is in one piece.
        table: bias of each relative position, (H, E).

    Returns:
        (R, C), heads side by side.
    """
    columns = functional.pad(table, (0, 1), value=-torch.inf)
    if by_hand(tokens):
        weights = (norm.weight, norm.bias, *working(tokens, linear))
        attended: Tensor = _NormedAttention.apply(tokens, *weights, columns, norm.eps, pieces)
        return attended[:-1]
    return _attend_by_kernels(linear(norm(tokens)), pieces, columns)


def _attend_by_kernels(qkv: Tensor, pieces: Pieces, columns: Tensor) -> Tensor:
    """Return the attention of queries, keys and values (R, 3 C), (R, C): a kernel per bucket, all else at once."""
    heads = len(columns)
    slots = _ToSlots.apply(qkv, pieces).split([count * length for count, length in pieces.shapes])
    biases = _Biases.apply(columns, pieces.all_columns, qkv.dtype).split(pieces.pairs, 1)
    parts = []
    for part, bias, (count, length) in zip(slots, biases, pieces.shapes, strict=True):
        query, key, value = part.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mask = bias.view(heads, count, length, length).transpose(0, 1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        parts.append(attended.transpose(1, 2).reshape(count * length, -1))
    out: Tensor = _FromSlots.apply(torch.cat(parts), pieces)
    return out


class _ToSlots(torch.autograd.Function):
    """Tokens in the slots of their pieces; padding is any token, as its keys are hidden and its queries not read."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, pieces: Pieces) -> Tensor:
        """Map (R, C) to (S, C)."""
        ctx.pieces = pieces
        return tokens.index_select(0, pieces.filled_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the tokens; that of padding is dropped."""
        return gradient.index_select(0, ctx.pieces.slots), None


class _FromSlots(torch.autograd.Function):
    """Tokens from their slots; what is in the others is dropped."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, pieces: Pieces) -> Tensor:
        """Map (S, C) to (R, C)."""
        ctx.pieces, ctx.count = pieces, len(slots)
        return slots.index_select(0, pieces.slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the slots, zero where there is padding."""
        of_slots = gradient.new_zeros(ctx.count, gradient.shape[1])
        return of_slots.index_copy_(0, ctx.pieces.slots, gradient), None


class _Biases(torch.autograd.Function):
    """The biases of all pairs."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Map columns of biases (H, E + 1) and their numbers (Q,) to (H, Q) of a type."""
        ctx.save_for_backward(index)
        ctx.like = columns
        return columns.to(dtype).index_select(1, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the columns."""
        (index,) = ctx.saved_tensors
        of_columns = gradient.new_zeros(ctx.like.shape, dtype=at_least_single(gradient[:0]).dtype)
        of_columns.index_add_(1, index, gradient.to(of_columns.dtype))
        return of_columns.to(ctx.like.dtype), None, None


class _NormedAttention(torch.autograd.Function):
    """`visible_attention` on the CPU; most of it is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        scale: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor,
        columns: Tensor,
        eps: float,
        pieces: Pieces,
    ) -> Tensor:
        """Map tokens (R, C) and columns of biases (H, E + 1) to (R + 1, C), of which the last row is nothing."""
        with torch.autocast("cpu", enabled=False):
            source = _project(functional.layer_norm(tokens, scale.shape, scale, offset, eps), weight, bias)
            columns = columns.to(source.dtype)
            attended = _attend(source, pieces, columns)
        kept = [source] if tokens.shape[-1] >= KEPT_FROM else []
        ctx.save_for_backward(tokens, scale, offset, weight, bias, columns, attended, *kept)
        ctx.eps, ctx.pieces = eps, pieces
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of tokens, norm, layer and biases."""
        tokens, scale, offset, weight, bias, columns, attended, *kept = ctx.saved_tensors
        normed, moments = normed_again(tokens, scale, offset, ctx.eps)
        source = kept[0] if kept else _project(normed, weight, bias)
        of_source, of_columns = _attend_backward(gradient, source, attended, ctx.pieces, columns)
        del source, kept
        of_normed, of_weight, of_bias = through_linear(of_source[:-1], normed, weight)
        of_norm = through_norm(of_normed, tokens, scale, offset, moments)
        return *of_norm, of_weight, of_bias, of_columns, None, None


def _project(normed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return queries, keys and values of tokens (R, C), and a row of zeros, the padding of pieces: (R + 1, 3 C)."""
    source = normed.new_zeros(len(normed) + 1, len(weight), dtype=weight.dtype)
    torch.addmm(bias, normed.to(weight.dtype), weight.T, out=source[:-1])
    return source


def _attend(source: Tensor, pieces: Pieces, columns: Tensor) -> Tensor:
    """Map rows (R + 1, 3 C) and columns of biases (H, E + 1) to (R + 1, C)."""
    heads, width = len(columns), source.shape[1] // 3
    attended = source.new_zeros(len(source), width)
    for rows, index in _portions(pieces, heads, source):
        query, key, value = _cut(source, rows, heads, parts=3)
        probabilities = _probabilities(query, key, columns, index)
        _paste(torch.bmm(probabilities, value)[None], attended, rows)
    return attended


def _attend_backward(
    gradient: Tensor, source: Tensor, attended: Tensor, pieces: Pieces, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of rows and biases: with dP = dO v^T, dS = P (dP - sum(dO O))."""
    heads = len(columns)
    of_source = torch.zeros_like(source)
    of_columns = columns.new_zeros(columns.shape, dtype=torch.promote_types(source.dtype, torch.float32))
    products = (gradient * attended).unflatten(1, (heads, -1)).sum(-1)  # (R + 1, H)
    for rows, index in _portions(pieces, heads, source):
        query, key, value = _cut(source, rows, heads, parts=3)
        (incoming,) = _cut(gradient, rows, heads, parts=1)
        (sums,) = _cut(products, rows, heads, parts=1)
        here = _probabilities(query, key, columns, index)
        of_value = torch.bmm(here.transpose(1, 2), incoming)
        of_scores = torch.baddbmm(sums, incoming, value.transpose(1, 2), beta=-1).mul_(here)
        flat = of_scores.view(heads, -1)
        of_columns.scatter_add_(1, index.long().view(1, -1).expand_as(flat), flat.to(of_columns.dtype))
        scale = query.shape[-1] ** -0.5
        of_query = torch.bmm(of_scores, key).mul_(scale)
        of_key = torch.bmm(of_scores.transpose(1, 2), query).mul_(scale)
        _paste(torch.stack([of_query, of_key, of_value]), of_source, rows)
    return of_source, of_columns


def _probabilities(query: Tensor, key: Tensor, columns: Tensor, index: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + bias), (H * p, L, L), with the biases of columns (p, L, L) of (H, E + 1)."""
    scores = columns.index_select(1, index.flatten()).view(-1, *index.shape[1:])
    scores.baddbmm_(query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    return torch.softmax(scores, -1)


def _portions(pieces: Pieces, heads: int, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows (p, L) and columns (p, L, L) of as many pieces at once as their scores fit in the cache."""
    for bucket in pieces.buckets:
        size = heads * bucket.rows.shape[1] ** 2 * like.element_size()
        step = len(bucket.rows) if like.is_meta else max(attention.CACHE_BYTES // _AT_ONCE // size, 1)
        for rows, places in zip(bucket.rows.split(step), bucket.places.split(step), strict=True):
            yield rows, pieces.columns(places)


def _cut(source: Tensor, rows: Tensor, heads: int, *, parts: int) -> tuple[Tensor, ...]:
    """Return rows (p, L) of a table with (parts * C) columns as `parts` tensors (H * p, L, D)."""
    cut = source.index_select(0, rows.flatten()).view(*rows.shape, parts, heads, -1)
    return cut.permute(2, 3, 0, 1, 4).contiguous().flatten(1, 2).unbind(0)


def _paste(values: Tensor, target: Tensor, rows: Tensor) -> None:
    """Write (parts, H * p, L, D) into rows of a table; the inverse of `_cut`."""
    values = values.unflatten(1, (-1, len(rows))).permute(2, 3, 0, 1, 4)
    target.index_copy_(0, rows.flatten(), values.reshape(rows.numel(), -1))
