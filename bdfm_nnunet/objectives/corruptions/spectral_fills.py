"""Corruptions of the spectrum of images: what replaces masked frequencies, and a low-frequency perturbation."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bdfm_nnunet.frequency import (
    at_least_single,
    filtered,
    full_precision,
    low_pass,
    millimetres,
    radial_frequencies,
    shell_numbers,
)

SpectralFill = Literal["zero", "noise", "phase_only", "other_image"]


def mask_spectrum(
    images: Tensor,
    mask: Tensor,
    *,
    fill: SpectralFill = "zero",
    strength: float | Tensor = 1.0,
    noise: Tensor | None = None,
    others: Tensor | None = None,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Replace the masked frequencies of images.

    Args:
        images: (B, C, *spatial).
        mask: boolean (B, *half) on the half of `torch.fft.rfftn`, True = masked, from `radial_mask` or `patch_mask`.
        fill: "zero"; "noise", of random phase and the mean power of the image's frequencies in the same shell;
            "phase_only" keeps the phase and gives the magnitude of that mean power; "other_image" takes them from
            `others`.
        strength: share of the change that is made, one number or one per sample, (B,).
        noise: standard normal (B, C, *spatial), for "noise".
        others: (B, C, *spatial), for "other_image".
        spacing: millimetres per axis, which give the shells; 1 if not given.

    Returns:
        (B, C, *spatial), at least in float32.

    Raises:
        ValueError: what the fill needs is missing.

    Example:
        >>> everything = torch.ones(1, 8, 5, dtype=torch.bool)
        >>> mask_spectrum(torch.rand(1, 1, 8, 8), everything).abs().max()
        tensor(0.)
    """
    dims = tuple(range(2, images.ndim))
    with full_precision(images.device):
        images = at_least_single(images)
        spectrum = torch.fft.rfftn(images, dim=dims)
        filling = _filling(images, spectrum, fill, noise, others, spacing)
        change = torch.where(mask.unsqueeze(1), filling - spectrum, torch.zeros_like(spectrum))
        spectrum = spectrum + per_sample(strength, images) * change
        return torch.fft.irfftn(spectrum, s=images.shape[2:], dim=dims)


def _filling(
    images: Tensor,
    spectrum: Tensor,
    fill: SpectralFill,
    noise: Tensor | None,
    others: Tensor | None,
    spacing: Sequence[float] | None,
) -> Tensor:
    """Return the spectrum of what masked frequencies become."""
    if fill == "zero":
        return torch.zeros_like(spectrum)
    dims = tuple(range(2, images.ndim))
    if fill == "other_image":
        return torch.fft.rfftn(at_least_single(_given(others, "others", fill)), dim=dims)
    magnitude = _shell_magnitude(spectrum, images.shape[2:], spacing)
    if fill == "phase_only":
        return spectrum * (magnitude / spectrum.abs().clamp_min(torch.finfo(images.dtype).tiny))
    # the spectrum of real white noise is that of a real image by construction
    white = torch.fft.rfftn(at_least_single(_given(noise, "noise", fill)), dim=dims, norm="ortho")
    return white * magnitude


def _given(tensor: Tensor | None, name: str, fill: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"the fill {fill!r} needs {name!r}, (B, C, *spatial)")
    return tensor


def _shell_magnitude(spectrum: Tensor, spatial: Sequence[int], spacing: Sequence[float] | None) -> Tensor:
    """Return the root of the mean power of each frequency's shell, on the half spectrum (B, C, *half)."""
    shells = max(size // 2 for size in spatial)
    numbers = shell_numbers(spatial, spacing=spacing, shells=shells, half=True, device=spectrum.device)
    power = (spectrum.real.square() + spectrum.imag.square()).flatten(2)
    # each frequency of the half stands for itself and its conjugate, but for those of the first and middle plane
    count = torch.full_like(numbers, 2, dtype=power.dtype)
    count[..., 0] = 1
    if spatial[-1] % 2 == 0:
        count[..., -1] = 1
    flat = numbers.flatten()
    sums = power.new_zeros(*power.shape[:2], shells + 1).index_add_(2, flat, power * count.flatten())
    members = power.new_zeros(shells + 1).index_add_(0, flat, count.flatten())
    return (sums / members.clamp_min(1)).sqrt()[..., flat].unflatten(2, numbers.shape)


def perturb_low_frequencies(
    images: Tensor,
    noise: Tensor,
    *,
    strength: float | Tensor,
    width: float,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Add smooth noise whose root mean square is exactly `strength` standard deviations of the image.

    The noise is low-passed by exp(-rho^2 / (2 width^2)) and has no frequency 0, so the mean of the image stays. The
    published perturbation has a strength relative to the largest coefficient, of which hardly anything can be seen.

    Args:
        images: (B, C, *spatial).
        noise: standard normal (B, C, *spatial).
        strength: one number or one per sample, (B,).
        width: standard deviation of the low-pass filter in cycles/mm.
        spacing: millimetres per axis; 1 if not given.

    Returns:
        (B, C, *spatial), at least in float32.

    Example:
        >>> images = torch.rand(1, 1, 16, 16, 16)
        >>> change = perturb_low_frequencies(images, torch.randn_like(images), strength=0.2, width=0.1) - images
        >>> ratio = change.square().mean().sqrt() / images.std(unbiased=False)
        >>> round(ratio.item(), 4), change.mean().abs().item() < 1e-7
        (0.2, True)
    """
    axes = images.ndim - 2
    with full_precision(images.device):
        images, noise = at_least_single(images), at_least_single(noise)
        steps = millimetres(images.shape[2:], spacing)
        radii = radial_frequencies(images.shape[2:], spacing=steps, half=True, dtype=images.dtype, device=images.device)
        smooth = filtered(noise, low_pass(radii, width) * (radii > 0), axes=axes)
        dims = tuple(range(2, images.ndim))
        deviation = images.std(dims, unbiased=False, keepdim=True)
        size = smooth.square().mean(dims, keepdim=True).sqrt().clamp_min(torch.finfo(images.dtype).tiny)
        return images + per_sample(strength, images) * deviation / size * smooth


def per_sample(value: float | Tensor, images: Tensor) -> float | Tensor:
    """Return one number as it is, and one per sample (B,) with the axes of images (B, C, *spatial).

    Example:
        >>> per_sample(torch.tensor([1.0, 2.0]), torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1, 1, 1])
    """
    if not isinstance(value, Tensor):
        return value
    return value.to(images.device).reshape(-1, *(1,) * (images.ndim - 1))
