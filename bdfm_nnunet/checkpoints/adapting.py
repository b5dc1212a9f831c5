"""Fitting tensors of one network to another: pure functions, each exact where the two networks agree."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Another number of input channels for a convolution (C_out, C_in, *kernel).

    Every new channel gets the mean over the old ones, scaled so that the answer to channels that all show the same
    image stays what it was.
    """
    old = weight.shape[1]
    return (weight.mean(1, keepdim=True) * (old / channels)).repeat(1, channels, *(1,) * (weight.ndim - 2))


def adapt_kernel(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """Another kernel size for a convolution (C_out, C_in, *kernel).

    A larger kernel gets zeros around the old one and computes the same; a smaller one takes up what lay outside it in
    its border, so that the answer to a constant image stays the same.
    """
    for axis, size in enumerate(kernel, start=2):
        spare = weight.shape[axis] - size
        if spare < 0:
            before = -spare // 2
            zeros = [
                weight.new_zeros([*weight.shape[:axis], n, *weight.shape[axis + 1 :]])
                for n in (before, -spare - before)
            ]
            weight = torch.cat([zeros[0], weight, zeros[1]], dim=axis)
        elif spare > 0:
            before = spare // 2
            kept = weight.narrow(axis, before, size).clone()
            kept.narrow(axis, 0, 1).add_(weight.narrow(axis, 0, before).sum(axis, keepdim=True))
            after = weight.narrow(axis, before + size, spare - before)
            kept.narrow(axis, size - 1, 1).add_(after.sum(axis, keepdim=True))
            weight = kept
    return weight


def adapt_patch_embedding(weight: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Resample a patch embedding (C_out, C_in, *patch) to another patch size.

    The patch shows the same content in more or fewer voxels, so each weight is worth the old share of the patch divided
    by the new one: what varies inside a patch is answered as before as far as the new voxels can show it. What
    interpolation does to the sum is put right evenly, so that the answer to a constant image stays exactly the same.
    """
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    old = weight.shape[2:]
    resized = functional.interpolate(weight.float(), tuple(patch_size), mode=modes[len(old)])
    resized = resized * (math.prod(old) / math.prod(patch_size))
    answer = weight.float().flatten(2).sum(-1) - resized.flatten(2).sum(-1)
    correction = answer / math.prod(patch_size)  # evenly over the patch
    return (resized + correction[(..., *(None,) * len(old))]).to(weight.dtype)


def adapt_bias_table(table: Tensor, old_window: Sequence[int], window: Sequence[int]) -> Tensor:
    """Another window size for a table of relative position biases (prod(2 w - 1), heads).

    Tokens keep their size, so an offset of three tokens means the same in every window: offsets that both windows have
    keep their bias, and larger ones take that of the nearest known offset.
    """
    grid = table.reshape(*(2 * size - 1 for size in old_window), -1)
    for axis, (old, new) in enumerate(zip(old_window, window, strict=True)):
        offsets = torch.arange(-(new - 1), new, device=table.device).clamp(-(old - 1), old - 1) + old - 1
        grid = grid.index_select(axis, offsets)
    return grid.reshape(-1, table.shape[-1])


def cubic_window(entries: int, axes: int) -> tuple[int, ...] | None:
    """The window with equal sides whose bias table has so many entries, if there is one."""
    side = round(entries ** (1 / axes))
    return ((side + 1) // 2,) * axes if side**axes == entries and side % 2 else None
