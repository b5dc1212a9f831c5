"""A tensor of a checkpoint in the shape that its place in a network has."""

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import adapting
from bdfm_nnunet.networks.swin import PatchEmbedding, WindowAttention


def fit_exactly(source: Tensor, target: Tensor) -> tuple[Tensor | None, str]:
    """Return the source and "" where it has the target's shape, or None and why it cannot be loaded.

    >>> fit_exactly(torch.ones(2), torch.ones(3))
    (None, 'shape (2,) in the checkpoint, (3,) here')
    """
    if target.is_floating_point() and not source.is_floating_point():
        return None, f"{str(source.dtype).removeprefix('torch.')} in the checkpoint, floating numbers here"
    if source.shape == target.shape:
        return source, ""
    return None, f"shape {tuple(source.shape)} in the checkpoint, {tuple(target.shape)} here"


def fit(
    source: Tensor, target: Tensor, owner: nn.Module, windows: tuple[int, ...] | None, *, reads_image: bool
) -> tuple[Tensor | None, str]:
    """Return the source in the target's shape and how it was adapted, or None and why it cannot be loaded.

    Args:
        source: from the checkpoint.
        target: parameter of an encoder.
        owner: the module that has the parameter.
        windows: attention windows of the checkpoint, tokens per axis; None: read off the length of the table.
        reads_image: whether the parameter reads the image, so that its input channels are the image's.

    Returns:
        The tensor, and a description of what was changed; empty where it is the source.

    Example:
        >>> kernel = torch.nn.Conv3d(1, 2, 3)
        >>> fit(torch.ones(2, 1, 1, 3, 3), kernel.weight, kernel, None, reads_image=True)[1]
        'kernel (1, 3, 3) to (3, 3, 3)'
    """
    if isinstance(owner, WindowAttention) and target is owner.relative_position_bias_table:
        return _fit_bias_table(source, target, owner, windows)
    old, new = tuple(source.shape), tuple(target.shape)
    convolution = len(old) == len(new) > 2 and old[0] == new[0] and source.numel() > 0 and old != new
    if not convolution or (old[1] != new[1] and not reads_image):
        return fit_exactly(source, target)
    source = source.float()  # sums of half precision would be coarse, and may be infinite
    steps = []
    if old[1] != new[1]:
        source = adapting.adapt_input_channels(source, new[1])
        steps.append(f"input channels {old[1]} to {new[1]}")
    if old[2:] != new[2:]:
        change = adapting.adapt_patch_embedding if isinstance(owner, PatchEmbedding) else adapting.adapt_kernel
        source = change(source, new[2:])
        steps.append(f"kernel {old[2:]} to {new[2:]}")
    return source, ", ".join(steps)


def _fit_bias_table(
    source: Tensor, target: Tensor, owner: WindowAttention, windows: tuple[int, ...] | None
) -> tuple[Tensor | None, str]:
    if source.ndim != 2 or source.shape[1] != target.shape[1]:
        return fit_exactly(source, target)
    old = windows or adapting.cubic_window(len(source), len(owner.window_size))
    if (
        old is None
        or len(old) != len(owner.window_size)
        or len(source) != torch.Size([2 * size - 1 for size in old]).numel()
    ):
        return fit_exactly(source, target)
    if old == owner.window_size:
        return source, ""
    return adapting.adapt_bias_table(source, old, owner.window_size), f"window {old} to {owner.window_size}"
