"""Fitting tensors of one network to another: pure functions, each exact where the two networks agree."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Change the number of input channels of a convolution.

    Every new channel gets the mean over the old ones, scaled so that the answer to channels that all show the same
    image stays the same.

    Args:
        weight: kernel (C_out, C_in, *kernel).
        channels: the new C_in.

    Returns:
        A kernel (C_out, channels, *kernel).

    Example:
        >>> weight = torch.tensor([[[1.0]], [[4.0]]])  # two outputs, one input
        >>> adapt_input_channels(weight, 2).squeeze(-1)
        tensor([[0.5000, 0.5000],
                [2.0000, 2.0000]])
    """
    old = weight.shape[1]
    return (weight.mean(1, keepdim=True) * (old / channels)).repeat(1, channels, *(1,) * (weight.ndim - 2))


def adapt_kernel(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """Change the size of a convolution's kernel.

    A larger kernel gets zeros around the old one and computes the same. The border of a smaller one takes up the
    weights that lay outside, so that the answer to a constant image stays the same.

    Args:
        weight: kernel (C_out, C_in, *kernel).
        kernel: the new size, one number per axis.

    Returns:
        A kernel (C_out, C_in, *new kernel).

    Example:
        >>> weight = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> adapt_kernel(weight, [5])
        tensor([[[0., 1., 2., 3., 0.]]])
        >>> adapt_kernel(weight, [1])
        tensor([[[6.]]])
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
    """Resample a patch embedding to another patch size.

    The patch shows the same content in more or fewer voxels, so the interpolated weights are multiplied by the old
    number of voxels over the new one: content that varies inside a patch gets the same answer as far as the new voxels
    can show it. The change that interpolation makes to the sum is corrected evenly over the patch, so that the answer
    to a constant image stays exactly the same.

    Args:
        weight: (C_out, C_in, *patch) of 1 to 3 axes.
        patch_size: the new size, one number per axis.

    Returns:
        Weights (C_out, C_in, *patch_size) of the same type.

    Example:
        >>> weight = torch.tensor([[[1.0, 1.0, 3.0, 3.0]]])
        >>> adapt_patch_embedding(weight, [2])
        tensor([[[2., 6.]]])
    """
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    old = weight.shape[2:]
    resized = functional.interpolate(weight.float(), tuple(patch_size), mode=modes[len(old)])
    resized = resized * (math.prod(old) / math.prod(patch_size))
    answer = weight.float().flatten(2).sum(-1) - resized.flatten(2).sum(-1)
    correction = answer / math.prod(patch_size)  # evenly over the patch
    return (resized + correction[(..., *(None,) * len(old))]).to(weight.dtype)


def adapt_bias_table(table: Tensor, old_window: Sequence[int], window: Sequence[int]) -> Tensor:
    """Change the window of a table of relative position biases.

    Tokens keep their size, so an offset of three tokens means the same in every window: offsets that both windows have
    keep their bias, and larger ones take that of the nearest known offset.

    Args:
        table: (prod(2 w - 1), heads), offsets with the last axis fastest.
        old_window: tokens per axis.
        window: tokens per axis of the new window.

    Returns:
        A table (prod(2 window - 1), heads).

    Example:
        The offsets -1, 0, 1 of a window of two tokens become -2 to 2 of three:

        >>> adapt_bias_table(torch.tensor([[-0.5], [0.0], [0.5]]), [2], [3]).flatten()
        tensor([-0.5000, -0.5000,  0.0000,  0.5000,  0.5000])
    """
    grid = table.reshape(*(2 * size - 1 for size in old_window), -1)
    for axis, (old, new) in enumerate(zip(old_window, window, strict=True)):
        offsets = torch.arange(-(new - 1), new, device=table.device).clamp(-(old - 1), old - 1) + old - 1
        grid = grid.index_select(axis, offsets)
    return grid.reshape(-1, table.shape[-1])


def cubic_window(entries: int, axes: int) -> tuple[int, ...] | None:
    """Return the window with equal sides whose bias table has so many entries, or None.

    Args:
        entries: length of the table.
        axes: spatial axes of the window.

    Example:
        >>> cubic_window(13**3, 3)
        (7, 7, 7)
        >>> cubic_window(8, 3) is None
        True
    """
    side = round(entries ** (1 / axes))
    return ((side + 1) // 2,) * axes if side**axes == entries and side % 2 else None
