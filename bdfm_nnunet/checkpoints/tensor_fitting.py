"""A tensor of a checkpoint in the shape that its place in a network has."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bdfm_nnunet.checkpoints import adapting
from bdfm_nnunet.checkpoints.token_adapting import Positions, adapt_positions
from bdfm_nnunet.networks.position_tables import PositionTable, spread
from bdfm_nnunet.networks.swin import PatchEmbedding, WindowAttention


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What the shapes of a checkpoint's tensors do not tell; None or empty: unknown.

    Attributes:
        window: tokens per axis of its attention windows; else read off the length of the tables.
        their_channels: names of the channels of its images.
        our_channels: names of the channels of the network's images.
        their_grid: tokens per axis of its absolute positions.
        our_grid: tokens per axis of the network's.
        positions: how absolute positions get another grid, see `adapt_positions`.

    Example:
        >>> Geometry(window=(7, 7, 7)).positions
        'resample'
    """

    window: tuple[int, ...] | None = None
    their_channels: Sequence[str] = ()
    our_channels: Sequence[str] = ()
    their_grid: tuple[int, ...] | None = None
    our_grid: tuple[int, ...] | None = None
    positions: Positions = "resample"


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
    source: Tensor, target: Tensor, owner: nn.Module, geometry: Geometry, *, reads_image: bool
) -> tuple[Tensor | None, str]:
    """Return the source in the target's shape and how it was adapted, or None and why it cannot be loaded.

    Args:
        source: from the checkpoint.
        target: parameter of an encoder.
        owner: the module that has the parameter.
        geometry: what shapes do not tell.
        reads_image: whether the parameter reads the image, so that its input channels are the image's.

    Returns:
        The tensor, and a description of what was changed; empty where it is the source.

    Example:
        >>> kernel = torch.nn.Conv3d(1, 2, 3)
        >>> fit(torch.ones(2, 1, 1, 3, 3), kernel.weight, kernel, Geometry(), reads_image=True)[1]
        'kernel (1, 3, 3) to (3, 3, 3)'
    """
    if isinstance(owner, WindowAttention) and target is owner.relative_position_bias_table:
        return _fit_bias_table(source, target, owner, geometry.window)
    if isinstance(owner, PositionTable):
        return _fit_table(source, target, geometry.positions)
    if target is getattr(owner, "pos_embed", None):
        return _fit_positions(source, target, geometry)
    old, new = tuple(source.shape), tuple(target.shape)
    convolution = len(old) == len(new) > 2 and old[0] == new[0] and source.numel() > 0
    if not convolution or (old[1] != new[1] and not reads_image):
        return fit_exactly(source, target)
    fitted = source.float()  # sums of half precision would be coarse, and may be infinite
    steps = []
    if reads_image:
        fitted, step = _fit_channels(fitted, new[1], geometry)
        steps += step
    if old[2:] != new[2:]:
        change = adapting.adapt_patch_embedding if _is_patch_embedding(owner) else adapting.adapt_kernel
        fitted = change(fitted, new[2:])
        steps.append(f"kernel {old[2:]} to {new[2:]}")
    return (fitted, ", ".join(steps)) if steps else (source, "")


def _is_patch_embedding(owner: nn.Module) -> bool:
    """Whether a layer reads patches that do not overlap."""
    return isinstance(owner, PatchEmbedding) or (
        isinstance(owner, _ConvNd) and tuple(owner.stride) == tuple(owner.kernel_size) != (1,) * len(owner.stride)
    )


def named_columns(theirs: Sequence[str], ours: Sequence[str], old: int, new: int) -> list[int | None] | None:
    """Return `adapting.channel_columns` where the names are those of all channels, and more than one; else None.

    One filter alone reads whatever modality the image shows.

    Args:
        theirs: names of the checkpoint's channels.
        ours: names of the network's channels.
        old: channels that the checkpoint's kernel reads.
        new: channels that the network's kernel reads.

    Example:
        >>> named_columns(["T1", "T2"], ["T2"], 2, 1), named_columns(["T1"], ["T2", "T1"], 1, 2)
        ([1], None)
    """
    complete = old == len(theirs) > 1 and new == len(ours)
    return adapting.channel_columns(theirs, ours) if complete else None


def _fit_channels(kernel: Tensor, channels: int, geometry: Geometry) -> tuple[Tensor, list[str]]:
    """Return a kernel for other channels of the image, by name where both sides name them."""
    theirs, ours, old = geometry.their_channels, geometry.our_channels, kernel.shape[1]
    columns = named_columns(theirs, ours, old, channels)
    if columns == list(range(channels)) and channels == old:
        return kernel, []
    if columns is not None:
        start = [name for name, column in zip(ours, columns, strict=True) if column is None]
        zero = f"; {', '.join(start)} start at zero" if start else ""
        how = f"input channels {', '.join(theirs)} to {', '.join(ours)} by name{zero}"
        return adapting.adapt_named_channels(kernel, columns), [how]
    if channels == old:
        return kernel, []
    return adapting.adapt_input_channels(kernel, channels), [f"input channels {old} to {channels}"]


def _fit_positions(source: Tensor, target: Tensor, geometry: Geometry) -> tuple[Tensor | None, str]:
    new = geometry.our_grid
    if new is None or source.ndim != 3 or source.shape[2] != target.shape[2]:
        return fit_exactly(source, target)
    if source.shape == target.shape and geometry.their_grid in (None, new):
        return source, ""
    registers = target.shape[1] - torch.Size(new).numel()
    side = round(max(source.shape[1] - registers, 0) ** (1 / len(new)))
    old = geometry.their_grid or (side,) * len(new)
    if len(old) != len(new) or torch.Size(old).numel() + registers != source.shape[1]:
        return fit_exactly(source, target)
    return adapt_positions(source, old, new, how=geometry.positions), f"positions {old} to {new}, {geometry.positions}"


def _fit_table(source: Tensor, target: Tensor, positions: Positions) -> tuple[Tensor | None, str]:
    """Return a table of vectors (*grid, C) on the grid of another.

    Frames that are kept, and not spread over another number of them, are the first ones.
    """
    if source.shape == target.shape or source.ndim != target.ndim or source.shape[-1] != target.shape[-1]:
        return fit_exactly(source, target)
    old, new = tuple(source.shape[:-1]), tuple(target.shape[:-1])
    what = "frames" if len(new) == 1 else "positions"
    if positions == "resample":
        return spread(source.float(), new), f"{what} {old} to {new} by linear interpolation"
    if len(new) == 1:
        return source[
            torch.arange(*new, device=source.device).clamp(max=len(source) - 1)
        ], f"{what} {old} to {new}, extend"
    kept = adapt_positions(source.flatten(0, -2)[None], old, new, how="extend")
    return kept.reshape(target.shape), f"{what} {old} to {new}, extend"


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
