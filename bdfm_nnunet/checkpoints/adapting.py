"""Fitting tensors of one network to another: pure functions, each exact where the two networks agree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.modality_names import modality_of


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


def adapt_named_channels(weight: Tensor, columns: Sequence[int | None]) -> Tensor:
    """Give each input channel of a convolution the filters of the channel of the same modality.

    Channels without a counterpart get zeros: the answer is exactly that to the channels that both have, and training
    makes use of the others.

    Args:
        weight: kernel (C_out, C_in, *kernel).
        columns: for each new channel its number among the old ones, None for none; see `channel_columns`.

    Returns:
        A kernel (C_out, len(columns), *kernel).

    Example:
        >>> weight = torch.tensor([[[1.0], [4.0]]])  # one output, two inputs
        >>> adapt_named_channels(weight, [1, None, 0]).flatten()
        tensor([4., 0., 1.])
    """
    nothing = weight.new_zeros(len(weight), 1, *weight.shape[2:])
    return torch.cat([nothing if column is None else weight[:, column : column + 1] for column in columns], 1)


def channel_columns(theirs: Sequence[str], ours: Sequence[str]) -> list[int | None] | None:
    """Return for each of our channels the number of the channel of the same modality among theirs.

    Args:
        theirs: names of the channels of a checkpoint.
        ours: names of the channels of a network.

    Returns:
        Numbers, None for a channel that they lack; None where no modality is in both, or a name is there twice.

    Example:
        >>> channel_columns(["T1w", "FLAIR"], ["t1c", "t2f", "t1n"])
        [None, 1, 0]
        >>> channel_columns(["CT"], ["t1c"]) is None
        True
    """
    known, wanted = [modality_of(name) for name in theirs], [modality_of(name) for name in ours]
    if len(set(known)) < len(known) or len(set(wanted)) < len(wanted) or not set(known) & set(wanted):
        return None
    return [known.index(name) if name in known else None for name in wanted]


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
    """Resample a patch embedding to another patch size, for patches that show the same content in other voxels.

    A voxel shows the mean of what lies in it. The new weights are those that first guess the old voxels from the new
    ones and then embed them: along each axis w' = R^T w with R the best linear guess (kriging) of the old means, given
    the new ones, of content whose differences grow with distance as those of natural images do (power 1/f^2, a linear
    variogram). Where new voxels are parts of old ones R is their mean, so the answer to any content is the same; a
    constant is always answered the same. Otherwise smooth content is answered alike as far as the new voxels show it:
    closer than by interpolated weights, and than by the pseudo-inverse of interpolation (FlexiViT, Beyer et al. 2023,
    https://arxiv.org/abs/2212.08013), whose content is white noise on the old grid.

    Args:
        weight: (C_out, C_in, *patch) of any number of axes.
        patch_size: the new size, one number per axis.

    Returns:
        Weights (C_out, C_in, *patch_size) of the same type.

    Example:
        >>> weight = torch.tensor([[[1.0, 3.0]]])
        >>> adapt_patch_embedding(weight, [4])
        tensor([[[0.5000, 0.5000, 1.5000, 1.5000]]])
    """
    resized = weight.double()
    for old, new in zip(weight.shape[2:], patch_size, strict=True):
        resized = torch.tensordot(resized, _best_guess(old, new).to(weight.device), dims=([2], [0]))
    return resized.to(weight.dtype)


def _best_guess(old: int, new: int) -> Tensor:
    """Return the matrix that guesses the means over `old` cells of an interval from those over `new` ones.

    Kriging with the variogram |x - y|: the weights that sum to one and leave the least expected error.
    """
    among, across = -_mean_distances(new, new), -_mean_distances(new, old)
    one = torch.ones(new, 1, dtype=torch.float64)
    system = torch.cat([torch.cat([among, one], 1), torch.cat([one.T, one.new_zeros(1, 1)], 1)])
    wanted = torch.cat([across, one.new_ones(1, old)])
    return torch.linalg.solve(system, wanted)[:new].T


def _mean_distances(rows: int, columns: int) -> Tensor:
    """Return the mean distance of a point in each of `rows` cells of an interval to one in each of `columns` cells."""
    ends = [torch.linspace(0, 1, count + 1, dtype=torch.float64) for count in (rows, columns)]
    cubes = (ends[0][:, None] - ends[1][None]).abs() ** 3 / 6
    return (cubes[1:, :-1] - cubes[:-1, :-1] - cubes[1:, 1:] + cubes[:-1, 1:]) * rows * columns


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
