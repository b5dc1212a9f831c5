"""Losses of Frepa (https://arxiv.org/abs/2407.14651) in any number of axes: intensities, edges and high frequencies.

Each is the mean over the samples of a batch of a number per sample, so that it does not depend on how a batch is shared
by processes and micro-batches. A mask of voxels restricts it to them.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bdfm_nnunet.frequency import (
    at_least_single,
    full_precision,
    high_pass,
    millimetres,
    radial_frequencies,
)

Reduction = Literal["mean", "none"]

PUBLISHED_CUTOFFS = (10.0, 20.0, 30.0, 40.0, 50.0)
"""Cut-offs of the public code, in cycles per image of 512 pixels."""


def rmse_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    epsilon: float = 1e-12,
    legacy: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the root mean square error of each sample, averaged over the samples.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial), True = counted; by default every voxel is.
        epsilon: is added inside the root, whose gradient would otherwise be NaN where prediction and target are equal.
        legacy: use the published form: one root over the whole batch, without epsilon and mask.
        reduction: "mean", or "none" for one number per sample.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import rmse_loss
        >>> target = torch.zeros(1, 1, 4, 4)
        >>> rmse_loss(target + 0.5, target)
        tensor(0.5000)
    """
    error = _error(prediction, target, mask)
    if legacy:
        per_sample = error.square().mean().sqrt().expand(len(error))
    else:
        per_sample = (_mean_per_sample(error.square(), mask) + epsilon).sqrt()
    return per_sample.mean() if reduction == "mean" else per_sample


def gradient_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean absolute error of the first differences, summed over the axes.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        spacing: millimetres per axis, for differences per mm; by default they are per voxel, as published.
        mask: boolean (B, *spatial); a difference counts if one of its two voxels is True. By default all count.
        reduction: "mean", or "none" for one number per sample.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import gradient_loss
        >>> ramp, target = torch.arange(4.0).expand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> gradient_loss(ramp, target), gradient_loss(ramp, target, spacing=(1.0, 0.5))
        (tensor(1.), tensor(2.))
    """
    error = _error(prediction, target, mask)
    total = error.new_zeros(len(error))
    for axis, step in enumerate(millimetres(error.shape[2:], spacing)):
        size = error.shape[2 + axis]
        if size == 1:
            continue
        ends = None if mask is None else mask.narrow(1 + axis, 0, size - 1) | mask.narrow(1 + axis, 1, size - 1)
        total = total + _mean_per_sample(error.diff(dim=2 + axis).abs() / step, ends)
    return total.mean() if reduction == "mean" else total


def high_frequency_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    cutoffs: Sequence[float] | None = None,
    mask: Tensor | None = None,
    legacy: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean absolute error after high-pass filters, summed over their cut-offs.

    The sum over cut-offs c of the mean of |highpass_c(prediction - target)|, with highpass_c = 1 - exp(-rho^2 / c^2)
    and rho the radial frequency. A constant shift costs nothing.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        spacing: millimetres per axis; 1 if not given.
        cutoffs: in cycles/mm; by default 10 to 50 cycles per 512 voxels of the smallest spacing.
        mask: boolean (B, *spatial), True = counted; by default every voxel is.
        legacy: use `published_filter`, with cut-offs in cycles per image whatever the spacing, by default 10 to 50.
        reduction: "mean", or "none" for one number per sample.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: the shapes do not fit each other, or a cut-off is not above 0.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import high_frequency_loss
        >>> high_frequency_loss(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), spacing=(1.0, 1.0))
        tensor(0.)
    """
    error = _error(prediction, target, mask)
    passed = _passed_as_published(error, cutoffs) if legacy else _passed(error, cutoffs, spacing)
    total = torch.stack([_mean_per_sample(part.abs(), mask) for part in passed]).sum(0)
    return total.mean() if reduction == "mean" else total


def _passed(error: Tensor, cutoffs: Sequence[float] | None, spacing: Sequence[float] | None) -> list[Tensor]:
    """Return the error after each filter; it is transformed once."""
    spatial = error.shape[2:]
    steps = millimetres(spatial, spacing)
    chosen = _checked([count / 512 / min(steps) for count in PUBLISHED_CUTOFFS] if cutoffs is None else cutoffs)
    radii = radial_frequencies(spatial, spacing=steps, half=True, dtype=error.dtype, device=error.device)
    dims = tuple(range(2, error.ndim))
    with full_precision(error.device):
        spectrum = torch.fft.rfftn(error, dim=dims)
        return [torch.fft.irfftn(spectrum * high_pass(radii, cutoff), s=spatial, dim=dims) for cutoff in chosen]


def _passed_as_published(error: Tensor, cutoffs: Sequence[float] | None) -> list[Tensor]:
    """Return the error after each filter of the public code."""
    spatial, dims = error.shape[2:], tuple(range(2, error.ndim))
    found = []
    with full_precision(error.device):
        spectrum = torch.fft.fftshift(torch.fft.fftn(error, dim=dims), dim=dims)
        for cutoff in _checked(PUBLISHED_CUTOFFS if cutoffs is None else cutoffs):
            gain = published_filter(spatial, cutoff, dtype=error.dtype, device=error.device)
            found.append(torch.fft.ifftn(torch.fft.ifftshift(spectrum * gain, dim=dims), dim=dims).real)
    return found


def _checked(cutoffs: Sequence[float]) -> Sequence[float]:
    if not cutoffs or not all(cutoff > 0 for cutoff in cutoffs):
        raise ValueError(f"the cut-offs are {cutoffs}, expected at least one number above 0")
    return cutoffs


def published_filter(
    spatial: Sequence[int], cutoff: float, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the high-pass gain of Frepa's public code on the shifted spectrum, (*spatial).

    The n indices of an axis run from 0 to n instead of n - 1 before the centre is subtracted. The filter lies half a
    voxel off the centre and is neither symmetric nor 0 at frequency 0.

    Args:
        spatial: voxels per axis.
        cutoff: in cycles per image.
        dtype: type of the result.
        device: device of the result.

    Example:
        >>> published_filter((512, 512), 10)[256, 256]  # at frequency 0, where the gain should be 0
        tensor(0.0050)
    """
    squares = torch.zeros((1,) * len(spatial), dtype=torch.float64)
    for axis, size in enumerate(spatial):
        distance = torch.linspace(0, size, size, dtype=torch.float64) - size // 2
        squares = squares + distance.square().reshape(-1, *(1,) * (len(spatial) - 1 - axis))
    return high_pass(squares.sqrt(), cutoff).to(dtype).to(device)


def _error(prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Return the difference, at least in single precision, once the shapes are checked."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    expected = (len(target), *target.shape[2:])
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != expected):
        raise ValueError(f"the mask must be boolean {expected}, got {mask.dtype} {tuple(mask.shape)}")
    return at_least_single(prediction) - at_least_single(target)


def _mean_per_sample(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the channels and voxels of each sample, (B,); 0 for a sample without a counted voxel."""
    if mask is None:
        return values.flatten(1).mean(1)
    weight = mask.unsqueeze(1)
    return (values * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * values.shape[1]).clamp_min(1)
