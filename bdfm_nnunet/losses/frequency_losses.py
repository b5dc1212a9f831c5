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
    filtered,
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
        >>> target = torch.zeros(1, 1, 4, 4)
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> gradient_loss(ramp, target), gradient_loss(ramp, target, spacing=(1.0, 0.5))
        (tensor(1.), tensor(2.))
        >>> gradient_loss(target + 3, target)  # a shift costs nothing
        tensor(0.)
    """
    error = _error(prediction, target, mask)
    steps = millimetres(error.shape[2:], spacing)
    total = error.new_zeros(len(error))
    for axis, step in enumerate(steps):
        size = error.shape[2 + axis]
        if size == 1:
            continue
        difference = error.diff(dim=2 + axis).abs() / step
        ends = None
        if mask is not None:
            ends = mask.narrow(1 + axis, 0, size - 1) | mask.narrow(1 + axis, 1, size - 1)
        total = total + _mean_per_sample(difference, ends)
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
    and rho the radial frequency (equation 5 of https://arxiv.org/abs/2407.14651). A constant shift costs nothing. The
    filter is linear, so one transform of the difference is enough.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        spacing: millimetres per axis; 1 if not given.
        cutoffs: in cycles/mm; by default 10, 20, 30, 40 and 50 cycles per 512 voxels of the smallest spacing. With
            `legacy` in cycles per image, by default 10 to 50.
        mask: boolean (B, *spatial), True = counted; by default every voxel is.
        legacy: use the published filter, which lies half a voxel off the centre of the spectrum, so that it is neither
            symmetric nor 0 at frequency 0, and counts cycles per image whatever the spacing.
        reduction: "mean", or "none" for one number per sample.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: the shapes do not fit each other, or a cut-off is not above 0.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import high_frequency_loss
        >>> target = torch.rand(1, 1, 16, 16, 16)
        >>> bool(high_frequency_loss(target + 3, target, spacing=(1.0, 1.0, 1.0)) < 1e-5)
        True
        >>> bool(high_frequency_loss(target + torch.randn_like(target), target, spacing=(1.0, 1.0, 1.0)) > 3)
        True
    """
    error = _error(prediction, target, mask)
    spatial = error.shape[2:]
    steps = millimetres(spatial, spacing)
    if cutoffs is None:
        cutoffs = PUBLISHED_CUTOFFS if legacy else [count / 512 / min(steps) for count in PUBLISHED_CUTOFFS]
    if not cutoffs or not all(cutoff > 0 for cutoff in cutoffs):
        raise ValueError(f"the cut-offs are {cutoffs}, expected at least one number above 0")
    radii = None
    if not legacy:
        radii = radial_frequencies(spatial, spacing=steps, half=True, dtype=error.dtype, device=error.device)
    total = error.new_zeros(len(error))
    for cutoff in cutoffs:
        passed = _passed_off_centre(error, cutoff) if radii is None else _passed(error, radii, cutoff)
        total = total + _mean_per_sample(passed.abs(), mask)
    return total.mean() if reduction == "mean" else total


def _passed(error: Tensor, radii: Tensor, cutoff: float) -> Tensor:
    return filtered(error, high_pass(radii, cutoff), axes=radii.ndim)


def _passed_off_centre(error: Tensor, cutoff: float) -> Tensor:
    """Filter as the public code does."""
    dims = tuple(range(2, error.ndim))
    with full_precision(error.device):
        spectrum = torch.fft.fftshift(torch.fft.fftn(error, dim=dims), dim=dims)
        gain = published_filter(error.shape[2:], cutoff, dtype=error.dtype, device=error.device)
        return torch.fft.ifftn(torch.fft.ifftshift(spectrum * gain, dim=dims), dim=dims).real


def published_filter(
    spatial: Sequence[int], cutoff: float, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the high-pass gain of Frepa's public code on the shifted spectrum, (*spatial).

    Its n indices of an axis are counted from 0 to n instead of n - 1 before the centre is subtracted.

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
