"""Attention inside pieces of windows of which only some tokens are visible, computed a few pieces at a time on the CPU.

Shapes: R rows (visible tokens of the batch), P pieces, L tokens of the longest piece, H heads, D channels of a head,
C = H * D, E columns of the bias table. Pieces differ in their tokens, so each reads its own biases from the table.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bdfm_nnunet.frequency import at_least_single
from bdfm_nnunet.networks import attention
from bdfm_nnunet.networks.visible_tokens import Bucket

_BY_HAND = ("cpu", "meta")  # "meta": what is counted is what is done


def visible_attention(qkv: Tensor, buckets: Sequence[Bucket], table: Tensor) -> Tensor:
    """Return multi-head attention among the visible tokens of each piece: softmax(q k^T / sqrt(D) + bias) v.

    Args:
        qkv: queries, keys and values of each visible token side by side, (R, 3 C).
        buckets: pieces of windows; every row is in one piece.
        table: bias of each relative position, (H, E).

    Returns:
        (R, C), heads side by side.
    """
    count = len(qkv)
    source = functional.pad(qkv, (0, 0, 0, 1))  # the last row is the padding of pieces
    columns = functional.pad(table, (0, 1), value=-torch.inf)
    if qkv.device.type in _BY_HAND:
        attended: Tensor = _VisibleAttention.apply(source, buckets, columns)
        return attended[:count]
    heads, width = len(table), qkv.shape[1] // 3
    parts = []
    for bucket in buckets:
        part = _Take.apply(source, bucket.rows).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        bias = _Biases.apply(columns, bucket.index, qkv.dtype)
        query, key, value = part.unbind(0)
        part = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        parts.append(part.transpose(1, 2).reshape(-1, width))
    rows = torch.cat([bucket.rows.flatten() for bucket in buckets])
    return qkv.new_zeros(count + 1, width).index_copy(0, rows, torch.cat(parts))[:count]


class _Take(torch.autograd.Function):
    """Rows of a table, of which only the last is taken more than once, and has no gradient."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, rows: Tensor) -> Tensor:
        """Map a table (R, C) and numbers (P, L) to (P, L, C)."""
        ctx.save_for_backward(rows)
        ctx.count = len(source)
        return source.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the table."""
        (rows,) = ctx.saved_tensors
        of_source = gradient.new_zeros(ctx.count, gradient.shape[-1])
        of_source.index_copy_(0, rows.flatten(), gradient.flatten(0, 1))
        of_source[-1] = 0
        return of_source, None


class _Biases(torch.autograd.Function):
    """The biases of the pairs of each piece."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Map columns of biases (H, E + 1) and their numbers (P, L, L) to (P, H, L, L) of a type."""
        ctx.save_for_backward(index)
        ctx.like = columns
        chosen = columns.to(dtype).index_select(1, index.flatten())
        return chosen.unflatten(1, index.shape).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the columns.

        A card adds the gradients of one column one after the other: each piece has columns of its own to add to, which
        are summed up at the end, in single precision.
        """
        (index,) = ctx.saved_tensors
        gradient = at_least_single(gradient).flatten(2)
        of_pieces = gradient.new_zeros(len(index), *ctx.like.shape)
        of_pieces.scatter_add_(2, index.long().flatten(1)[:, None].expand_as(gradient), gradient)
        return of_pieces.sum(0).to(ctx.like.dtype), None, None


class _VisibleAttention(torch.autograd.Function):
    """`visible_attention` on the CPU; only the probabilities are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, buckets: Sequence[Bucket], columns: Tensor) -> Tensor:
        """Map rows (R + 1, 3 C) and columns of biases (H, E + 1) to (R + 1, C)."""
        keep = any(ctx.needs_input_grad)
        heads, width = len(columns), source.shape[1] // 3
        columns = columns.to(source.dtype)
        scale = (width // heads) ** -0.5
        attended = source.new_zeros(len(source), width)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for bucket in buckets:
                for rows, index in _portions(bucket, heads, source):
                    query, key, value = _cut(source, rows, heads, parts=3)
                    scores = columns.index_select(1, index.flatten()).view(-1, *index.shape[1:])
                    scores.baddbmm_(query, key.transpose(1, 2), alpha=scale)
                    scores = torch.softmax(scores, -1)
                    _paste(torch.bmm(scores, value)[None], attended, rows)
                    if keep:
                        kept.append(scores)
        if keep:
            ctx.save_for_backward(source, attended, *kept)
            ctx.buckets, ctx.scale, ctx.like = buckets, scale, columns
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        """Return the gradients of rows and biases: with dP = dO v^T, dS = P (dP - sum(dO O))."""
        source, attended, *kept = ctx.saved_tensors
        heads = len(ctx.like)
        of_source = torch.zeros_like(source)
        of_columns = ctx.like.new_zeros(ctx.like.shape, dtype=torch.promote_types(source.dtype, torch.float32))
        products = (gradient * attended).unflatten(1, (heads, -1)).sum(-1)  # (R + 1, H)
        probabilities = iter(kept)
        with torch.autocast("cpu", enabled=False):
            for bucket in ctx.buckets:
                for rows, index in _portions(bucket, heads, source):
                    query, key, value = _cut(source, rows, heads, parts=3)
                    (incoming,) = _cut(gradient, rows, heads, parts=1)
                    (sums,) = _cut(products, rows, heads, parts=1)
                    here = next(probabilities)
                    of_value = torch.bmm(here.transpose(1, 2), incoming)
                    of_scores = torch.baddbmm(sums, incoming, value.transpose(1, 2), beta=-1).mul_(here)
                    flat = of_scores.view(heads, -1)
                    of_columns.scatter_add_(1, index.long().view(1, -1).expand_as(flat), flat.to(of_columns.dtype))
                    of_query = torch.bmm(of_scores, key).mul_(ctx.scale)
                    of_key = torch.bmm(of_scores.transpose(1, 2), query).mul_(ctx.scale)
                    _paste(torch.stack([of_query, of_key, of_value]), of_source, rows)
        of_source[-1] = 0
        return of_source, None, of_columns


def _portions(bucket: Bucket, heads: int, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows (p, L) and columns (p, L, L) of as many pieces at once as their scores fit in the cache."""
    size = heads * bucket.index[0].numel() * like.element_size()
    step = len(bucket.rows) if like.is_meta else max(attention.CACHE_BYTES // size, 1)
    yield from zip(bucket.rows.split(step), bucket.index.split(step), strict=True)


def _cut(source: Tensor, rows: Tensor, heads: int, *, parts: int) -> tuple[Tensor, ...]:
    """Return rows (p, L) of a table with (parts * C) columns as `parts` tensors (H * p, L, D)."""
    cut = source.index_select(0, rows.flatten()).view(*rows.shape, parts, heads, -1)
    return cut.permute(2, 3, 0, 1, 4).contiguous().flatten(1, 2).unbind(0)


def _paste(values: Tensor, target: Tensor, rows: Tensor) -> None:
    """Write (parts, H * p, L, D) into rows of a table; the inverse of `_cut`."""
    values = values.unflatten(1, (-1, len(rows))).permute(2, 3, 0, 1, 4)
    target.index_copy_(0, rows.flatten(), values.reshape(rows.numel(), -1))
