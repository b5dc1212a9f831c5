"""Power spectra of images in radial shells of the frequency in cycles/mm, and how well a reconstruction keeps them.

Shapes: images (B, C, *spatial), in any number of axes; masks are boolean and per voxel (B, *spatial), True = masked;
spacing is the voxel size in mm in the order of the axes, 1 mm where it is None; S shells.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, millimetres, shell_power
from bdfm_nnunet.metrics import difference

Spacing = Sequence[float] | None
_SMALLEST = 1e-12  # a power below this share of the target's counts as this share: -120 dB


class SpectrumError(NamedTuple):
    """Error of a power spectrum by radial shell, from low to high frequencies.

    Attributes:
        frequencies: (S,), middle of each shell in cycles/mm.
        relative: (B, S), |P_prediction - P_target| / P_target; NaN in shells where the target has no power.
        decibels: (B, S), 10 log10(P_prediction / P_target): below 0 where detail is lost, above where it is invented.
        high: (B,), mean of |decibels| over the shells above half of the highest frequency.

    Example:
        >>> images = torch.rand(1, 1, 16, 16)
        >>> power_spectrum_error(images, images).high
        tensor([0.])
    """

    frequencies: Tensor
    relative: Tensor
    decibels: Tensor
    high: Tensor


def power_spectrum_error(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    spacing: Spacing = None,
    shells: int = 8,
    window: bool = True,
) -> SpectrumError:
    """Compare two power spectra, shell by shell of the frequency in cycles/mm; phases do not count.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial), True = masked; the visible voxels are taken from the target.
        spacing: voxel size in mm.
        shells: see `detail_power`.
        window: see `detail_power`.

    Example:
        >>> noise = torch.randn(1, 1, 32, 32, 32)
        >>> weaker = power_spectrum_error(0.5 * noise, noise, shells=4)
        >>> weaker.decibels
        tensor([[-6.0206, -6.0206, -6.0206, -6.0206]])
        >>> weaker.frequencies
        tensor([0.0625, 0.1875, 0.3125, 0.4375])
    """
    error, original = difference(prediction, target, mask)
    options: dict[str, Any] = {"spacing": spacing, "shells": shells, "window": window}
    powers = [detail_power(image, **options) for image in (original + error, original)]
    there = powers[1] > _SMALLEST * powers[1].sum(-1, keepdim=True)
    ratio = torch.where(there, powers[0] / powers[1], math.nan)
    frequencies = shell_middles(original.shape[2:], spacing=spacing, shells=shells).to(original.device)
    decibels = (10 * torch.log10(ratio.clamp_min(_SMALLEST))).nanmean(1)
    high = decibels[:, frequencies > highest_frequency(original.shape[2:], spacing=spacing) / 2].abs().nanmean(1)
    return SpectrumError(frequencies, (ratio - 1).abs().nanmean(1), decibels, high)


def detail_power(images: Tensor, *, spacing: Spacing = None, shells: int = 8, window: bool = True) -> Tensor:
    """Return the power of images in radial shells up to the highest frequency that any axis has.

    It is `frequency.shell_power` of images less their mean. The shells have the same width and end at the highest
    Nyquist frequency of the axes, so what thick slices show within their planes counts; the corners of the spectrum do
    not.

    Args:
        images: (B, C, *spatial).
        spacing: voxel size in mm.
        shells: number of shells.
        window: whether to multiply the image, less its mean, by a Hann window first: else the step between opposite
            borders of a crop fills the high shells.

    Returns:
        (B, C, shells); 0 where no frequency of so small an image falls into a shell.

    Example:
        >>> wave = torch.cos(torch.arange(32) * 2 * torch.pi / 8).reshape(1, 1, 32) + 3  # 0.125 cycles/mm
        >>> detail_power(wave, shells=4, window=False).round(decimals=3)
        tensor([[[0., 2., 0., 0.]]])
    """
    if shells < 1:
        raise ValueError(f"shells is {shells}, expected 1 or more")
    images = at_least_single(images)
    axes = tuple(range(2, images.ndim))
    images = images - images.mean(axes, keepdim=True)
    if window:
        images = images * _hann(images)
        images = images - images.mean(axes, keepdim=True)
    highest = highest_frequency(images.shape[2:], spacing=spacing)
    return shell_power(images, spacing=spacing, shells=shells, highest=highest)


def _hann(images: Tensor) -> Tensor:
    """Return a Hann window over all axes that is nowhere zero, (*spatial)."""
    window = images.new_ones(())
    for size in images.shape[2:]:
        along = torch.hann_window(size + 2, periodic=False, dtype=images.dtype, device=images.device)
        window = window[..., None] * along[1:-1]
    return window


def highest_frequency(spatial: Sequence[int], *, spacing: Spacing = None) -> float:
    """Return the highest Nyquist frequency of the axes with more than one voxel, in cycles/mm.

    Example:
        >>> highest_frequency((64, 64, 20), spacing=(1.0, 1.0, 5.0))
        0.5
    """
    steps = zip(millimetres(spatial, spacing), spatial, strict=True)
    return 0.5 / min((step for step, size in steps if size > 1), default=1.0)


def shell_middles(spatial: Sequence[int], *, spacing: Spacing = None, shells: int = 8) -> Tensor:
    """Return the middle of each shell of `detail_power` in cycles/mm, (shells,).

    Example:
        >>> shell_middles((32, 32), spacing=(2.0, 2.0), shells=2)
        tensor([0.0625, 0.1875])
    """
    return (torch.arange(shells) + 0.5) * highest_frequency(spatial, spacing=spacing) / shells


def recovered_power(
    error: Tensor, target: Tensor, *, spacing: Spacing = None, shells: int = 8, window: bool = True
) -> Tensor:
    """Return which share of the target's power a prediction recovers in each shell, phases included, over all images.

    The share is 1 - |E|^2 / |T|^2, summed over the images, the channels and the frequencies of the shell, with the
    spectra E of the error and T of the target. 1: all of it; 0: no more than a constant image does; below 0: worse.

    Args:
        error: prediction less target, (B, C, *spatial).
        target: (B, C, *spatial).
        spacing: voxel size in mm.
        shells: see `detail_power`.
        window: see `detail_power`.

    Returns:
        (shells,); NaN where the target has no power.

    Example:
        >>> target = torch.randn(2, 1, 32, 32)
        >>> recovered_power(0.5 * target - target, target, shells=4)
        tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    lost, power = (
        detail_power(image, spacing=spacing, shells=shells, window=window).sum((0, 1)) for image in (error, target)
    )
    return share_kept(lost, power)


def share_kept(lost: Tensor, power: Tensor) -> Tensor:
    """Return the share 1 - lost / power of each shell, NaN where the target has no power.

    Args:
        lost: (shells,), power of the error.
        power: (shells,), power of the target.

    Example:
        >>> share_kept(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 2.0, 0.0]))
        tensor([0.7500, 0.0000,    nan])
    """
    return torch.where(power > _SMALLEST * power.sum(), 1 - lost / power, math.nan)
