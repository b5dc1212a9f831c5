"""Reconstruction loss of masked 4-D images.

Shapes: images (B, C, X, Y, Z, T); masks are boolean over tokens (B, *grid), True = masked.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.frequency import at_least_single

LossRegion = Literal["brain", "all"]


def sequence_mse(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    brain: Tensor | None = None,
    region: LossRegion = "brain",
    unit: Sequence[int] | None = None,
) -> Tensor:
    """Return the squared error on masked tokens of 4-D images.

    For "brain" it is the mean over the voxels of the brain in masked tokens of each sample, then the mean over samples;
    a sample without any counts 0. For "all" it is the loss of NeuroSTORM's public code
    (https://arxiv.org/abs/2506.11167): the mean over all voxels of a token and over the tokens of a unit, then the sum
    over the masked units of the whole batch, divided by their number.

    Args:
        prediction: (B, C, X, Y, Z, T).
        target: same shape.
        mask: boolean over tokens (B, *grid), True = masked.
        brain: boolean (B, X, Y, Z), or weights of voxels; for "brain" only, by default all voxels count.
        region: which voxels count.
        unit: tokens per axis of what was masked as a whole; for "all" only, by default one token. Of windows that a
            grid cuts off, each counts as one.

    Returns:
        A scalar; NaN for "all" without any masked token, as published.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> target = torch.zeros(1, 1, 4, 4, 4, 2)
        >>> mask = torch.zeros(1, 2, 2, 2, 2, dtype=torch.bool)
        >>> mask[0, 0, 0, 0, 0] = True
        >>> sequence_mse(target + 0.5, target, mask)
        tensor(0.2500)
    """
    _check(prediction, target, mask, brain)
    squares = (at_least_single(prediction) - at_least_single(target)).square().mean(1)
    patch = [size // count for size, count in zip(squares.shape[1:], mask.shape[1:], strict=True)]
    if region == "all":
        error = _pooled(squares, patch) / math.prod(patch)
        return _over_units(error, mask, unit or (1,) * 4)
    if brain is None:
        hidden = mask * float(math.prod(patch))
    else:
        weight = brain.to(squares.dtype)[..., None]
        squares = squares * weight
        hidden = mask * (_pooled(weight, [*patch[:-1], 1]) * patch[-1])
    errors = (_pooled(squares, patch) * mask).flatten(1).sum(1)
    count = hidden.flatten(1).sum(1)
    return (errors / torch.where(count > 0, count, 1)).mean()


def _over_units(error: Tensor, mask: Tensor, unit: Sequence[int]) -> Tensor:
    """Return the mean over masked units of the mean error of their masked tokens."""
    sums, counts = (_pooled(each, unit) for each in (error * mask, mask.to(error.dtype)))
    hidden = counts > 0
    return (sums / torch.where(hidden, counts, 1)).sum() / hidden.sum()


def _pooled(values: Tensor, steps: Sequence[int]) -> Tensor:
    """Sum values (B, *spatial) over blocks of `steps` positions; the last blocks of an axis may be cut off."""
    short = [-size % step for size, step in zip(values.shape[1:], steps, strict=True)]
    if any(short):
        values = functional.pad(values, [n for missing in reversed(short) for n in (0, missing)])
    split = [n for size, step in zip(values.shape[1:], steps, strict=True) for n in (size // step, step)]
    return values.reshape(len(values), *split).sum(tuple(range(2, 2 * len(steps) + 1, 2)))


def _check(prediction: Tensor, target: Tensor, mask: Tensor, brain: Tensor | None) -> None:
    if prediction.shape != target.shape or target.ndim != 6:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}, expected two (B, C, X, Y, Z, T)"
        )
    batch, _, *spatial = target.shape
    if mask.dtype != torch.bool or len(mask) != batch or mask.ndim != 5:
        raise ValueError(f"the mask must be boolean (B, X, Y, Z, T), got {mask.dtype} {tuple(mask.shape)}")
    if any(size % count for size, count in zip(spatial, mask.shape[1:], strict=True)):
        raise ValueError(f"a grid of {tuple(mask.shape[1:])} tokens does not fill images of {tuple(spatial)}")
    if brain is not None and tuple(brain.shape) != (batch, *spatial[:-1]):
        raise ValueError(f"the brain must be (B, X, Y, Z), {(batch, *spatial[:-1])}, got {tuple(brain.shape)}")
