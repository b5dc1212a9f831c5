"""Masks of frequencies that keep images real: a frequency and its conjugate are always masked together.

Both forms mask frequency k where a uniform number is below a probability that grows with its distance from 0. Frequency
0, which is the image's mean, is never masked. Published: https://arxiv.org/abs/2407.14651, dual-component masking; its
public code masks uniformly and drops the imaginary part that its masks leave.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bdfm_nnunet.frequency import hermitian, high_pass, millimetres, radial_frequencies

Curve = Literal["step", "smooth"]


def radial_mask(
    uniform: Tensor,
    *,
    cutoff: float,
    probability: float | Tensor,
    spacing: Sequence[float] | None = None,
    curve: Curve = "smooth",
    half: bool = False,
) -> Tensor:
    """Mask single frequencies, with a probability that depends on their distance from 0.

    Args:
        uniform: (B, *spatial), uniform in [0, 1), in the unshifted order of the FFT.
        cutoff: frequency in cycles/mm.
        probability: largest probability, one number or one per sample, (B,).
        spacing: millimetres per axis; 1 if not given.
        curve: "step" masks with `probability` above the cut-off and nothing below; "smooth" with `probability` times
            1 - exp(-rho^2 / cutoff^2).
        half: whether to return only the half of `torch.fft.rfftn`.

    Returns:
        Boolean (B, *spatial), or its half; True = masked.

    Example:
        >>> uniform = torch.rand(2, 16, 16)
        >>> mask = radial_mask(uniform, cutoff=0.1, probability=0.7)
        >>> bool(mask[:, 0, 0].any()), bool(0.5 < mask.float().mean() < 0.7)
        (False, True)
    """
    spatial = uniform.shape[1:]
    radii = radial_frequencies(spatial, spacing=spacing, half=half, dtype=uniform.dtype, device=uniform.device)
    return hermitian(uniform, len(spatial), half=half) < _probability(radii, cutoff, probability, curve)


def patch_mask(
    uniform: Tensor,
    spatial: Sequence[int],
    *,
    cutoff: float,
    probability: float | Tensor,
    spacing: Sequence[float] | None = None,
    curve: Curve = "smooth",
    half: bool = False,
) -> Tensor:
    """Mask patches of the spectrum, the published form, with a probability that grows with their distance from 0.

    The spectrum with frequency 0 in its middle is cut into a grid of patches; the distance of a patch is that of its
    centre. Of a frequency and its conjugate, which patches of even size may part, the first one (in the unshifted
    order) decides for both.

    Args:
        uniform: (B, *grid), uniform in [0, 1), one number per patch of the shifted spectrum.
        spatial: voxels per axis; an axis that is no multiple of the grid has smaller patches at its end.
        cutoff: frequency in cycles/mm.
        probability: largest probability, one number or one per sample, (B,).
        spacing: millimetres per axis; 1 if not given.
        curve: see `radial_mask`.
        half: whether to return only the half of `torch.fft.rfftn`.

    Returns:
        Boolean (B, *spatial), or its half; True = masked.

    Example:
        >>> patch_mask(torch.rand(2, 8, 8), (32, 32), cutoff=0.1, probability=0.7).shape
        torch.Size([2, 32, 32])
    """
    grid = uniform.shape[1:]
    patch = [math.ceil(size / count) for size, count in zip(spatial, grid, strict=True)]
    radii = _patch_radii(spatial, grid, patch, millimetres(spatial, spacing)).to(uniform)
    masked = uniform < _probability(radii, cutoff, probability, curve)
    for axis, (size, step) in enumerate(zip(spatial, patch, strict=True), start=1):
        # the patch of each unshifted index
        index = torch.arange(size, device=uniform.device).roll(-(size // 2)) // step
        masked = masked.index_select(axis, index)
    masked.flatten(1)[:, 0] = False
    return hermitian(masked, len(spatial), half=half)


def _patch_radii(spatial: Sequence[int], grid: Sequence[int], patch: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Return the radial frequency of the centre of each patch of the shifted spectrum, (*grid)."""
    squares = torch.zeros((1,) * len(grid), dtype=torch.float64)
    axes = zip(spatial, grid, patch, spacing, strict=True)
    for axis, (size, count, step, width) in enumerate(axes):
        first = torch.arange(count, dtype=torch.float64) * step
        centre = (first + (first + step).clamp_max(size) - 1) / 2 - size // 2
        frequency = centre / (size * width)
        squares = squares + frequency.square().reshape(-1, *(1,) * (len(grid) - 1 - axis))
    return squares.sqrt()


def _probability(radii: Tensor, cutoff: float, largest: float | Tensor, curve: Curve) -> Tensor:
    """Return the probability that a frequency is masked, (*spatial) or (B, *spatial)."""
    share = high_pass(radii, cutoff) if curve == "smooth" else (radii > cutoff).to(radii.dtype)
    if isinstance(largest, Tensor):
        largest = largest.to(radii.dtype).reshape(-1, *(1,) * radii.ndim)
    return share * largest
