"""Filters by radial frequency, in cycles per millimetre and any number of axes.

The frequency of index k on an axis of n voxels of s mm is f = k / (n s), with k = 0, 1, ..., -1 in the order of the
FFT; the radial frequency is rho = |f|. Real images need only the half of the spectrum that `torch.fft.rfftn` returns:
all indices of each axis but the last, and 0 to n // 2 of the last.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency.patch_spectra import at_least_single, full_precision
from bdfm_nnunet.kept_tables import kept


def millimetres(spatial: Sequence[int], spacing: Sequence[float] | None) -> tuple[float, ...]:
    """Return the voxel size per axis, 1 mm where none is given.

    Raises:
        ValueError: not one positive voxel size per axis.

    Example:
        >>> millimetres((8, 8), None), millimetres((8, 8), (1, 3))
        ((1.0, 1.0), (1.0, 3.0))
    """
    steps = (1.0,) * len(spatial) if spacing is None else tuple(float(step) for step in spacing)
    if len(steps) != len(spatial) or not all(0 < step < math.inf for step in steps):
        raise ValueError(f"spacing is {steps}, expected a voxel size above 0 mm for each of {len(spatial)} axes")
    return steps


def radial_frequencies(
    spatial: Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
    half: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the radial frequency of each index of a spectrum.

    Args:
        spatial: voxels per axis.
        spacing: millimetres per axis; 1 if not given.
        half: whether to return only the half of `torch.fft.rfftn`.
        dtype: type of the result.
        device: device of the result.

    Returns:
        rho in cycles/mm, (*spatial), or (*spatial[:-1], spatial[-1] // 2 + 1). Do not change it: it is kept for the
        next call.

    Example:
        >>> radial_frequencies((4,), spacing=(0.5,))
        tensor([0.0000, 0.5000, 1.0000, 0.5000])
        >>> radial_frequencies((2, 4), half=True)
        tensor([[0.0000, 0.2500, 0.5000],
                [0.5000, 0.5590, 0.7071]])
    """
    sizes = tuple(int(size) for size in spatial)
    return _radii(sizes, millimetres(sizes, spacing), half, dtype, torch.device(device))


@kept(maxsize=32)
def _radii(
    spatial: tuple[int, ...], spacing: tuple[float, ...], half: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    squares = torch.zeros((1,) * len(spatial), dtype=torch.float64)
    for axis, (size, step) in enumerate(zip(spatial, spacing, strict=True)):
        last = half and axis == len(spatial) - 1
        frequencies = (torch.fft.rfftfreq if last else torch.fft.fftfreq)(size, step, dtype=torch.float64)
        squares = squares + frequencies.square().reshape(-1, *(1,) * (len(spatial) - 1 - axis))
    return squares.sqrt().to(dtype).to(device)


def hermitian(field: Tensor, axes: int, *, half: bool = False) -> Tensor:
    """Give each index of a spectrum and its conjugate the same value, so that a mask made of it keeps images real.

    The value at k becomes that at the smaller of the flat indices (C order) of k and -k.

    Args:
        field: (..., *spatial), in the unshifted order of the FFT.
        axes: number of spatial axes.
        half: whether to return only the half of `torch.fft.rfftn`.

    Example:
        >>> hermitian(torch.tensor([0, 1, 2, 3]), axes=1)
        tensor([0, 1, 2, 1])
    """
    spatial = tuple(field.shape[-axes:])
    chosen = _first_of_pair(spatial, field.device)
    if half:
        chosen = chosen[..., : spatial[-1] // 2 + 1]
    return field.flatten(-axes)[..., chosen.flatten()].unflatten(-1, chosen.shape)


@kept(maxsize=16)
def _first_of_pair(spatial: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the smaller of the flat indices of k and -k for every index k of a spectrum, (*spatial)."""
    numbers = torch.arange(math.prod(spatial)).reshape(spatial)
    axes = tuple(range(len(spatial)))
    conjugates = numbers.flip(axes).roll((1,) * len(spatial), axes)
    return torch.minimum(numbers, conjugates).to(device)


def high_pass(radii: Tensor, cutoff: float) -> Tensor:
    """Return the gain 1 - exp(-rho^2 / cutoff^2) of a Gaussian high-pass filter; it is 0 at frequency 0.

    Args:
        radii: radial frequencies in cycles/mm.
        cutoff: frequency in cycles/mm at which the gain is 0.63.

    Example:
        >>> high_pass(torch.tensor([0.0, 0.1, 0.5]), cutoff=0.1)
        tensor([0.0000, 0.6321, 1.0000])
    """
    return -torch.expm1(-(radii / cutoff).square())


def low_pass(radii: Tensor, width: float | Tensor) -> Tensor:
    """Return the gain exp(-rho^2 / (2 width^2)) of a Gaussian low-pass filter.

    Args:
        radii: radial frequencies in cycles/mm.
        width: standard deviation of the gain in cycles/mm.

    Example:
        >>> low_pass(torch.tensor([0.0, 0.1, 0.5]), width=0.1)
        tensor([1.0000e+00, 6.0653e-01, 3.7267e-06])
    """
    return (-0.5 * (radii / width).square()).exp()


def filtered(images: Tensor, gain: Tensor, *, axes: int) -> Tensor:
    """Multiply the spectra of images by a gain, in float32 also inside autocast (float64 stays).

    Args:
        images: real (..., *spatial).
        gain: real, broadcast to the half of the spectra that `torch.fft.rfftn` returns.
        axes: number of spatial axes.

    Returns:
        Real (..., *spatial).

    Example:
        >>> images = torch.rand(2, 1, 8, 9)
        >>> mean = filtered(images, (radial_frequencies((8, 9), half=True) == 0).float(), axes=2)
        >>> torch.allclose(mean, images.mean((2, 3), keepdim=True).expand_as(images))
        True
    """
    with full_precision(images.device):
        images = at_least_single(images)
        dims = tuple(range(-axes, 0))
        spectra = torch.fft.rfftn(images, dim=dims) * gain.to(images.dtype)
        return torch.fft.irfftn(spectra, s=images.shape[-axes:], dim=dims)


def shell_numbers(
    spatial: Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
    shells: int = 8,
    highest: float | None = None,
    half: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the shell of each index of a spectrum.

    Args:
        spatial: voxels per axis.
        spacing: millimetres per axis; 1 if not given.
        shells: shells of equal width from 0 to `highest`.
        highest: end of the last shell in cycles/mm; the Nyquist frequency of the largest spacing if not given.
        half: whether to return only the half of `torch.fft.rfftn`.
        device: device of the result.

    Returns:
        Whole numbers from 0 to `shells`; the last one marks what lies beyond the shells.

    Example:
        >>> shell_numbers((8,), shells=2)
        tensor([0, 0, 1, 1, 2, 1, 1, 0])
    """
    steps = millimetres(spatial, spacing)
    radii = radial_frequencies(spatial, spacing=steps, half=half, dtype=torch.float64, device="cpu")
    width = (0.5 / max(steps) if highest is None else highest) / shells
    return (radii / width).floor().long().clamp_max(shells).to(device)


def shell_power(
    images: Tensor, *, spacing: Sequence[float] | None = None, shells: int = 8, highest: float | None = None
) -> Tensor:
    """Return the radial power spectrum: the mean of |DFT|^2 / voxels in shells of equal width.

    Args:
        images: real (B, C, *spatial).
        spacing: millimetres per axis; 1 if not given.
        shells: shells from 0 to `highest`; what lies beyond is left out.
        highest: end of the last shell in cycles/mm; the Nyquist frequency of the largest spacing if not given.

    Returns:
        (B, C, shells); 0 for a shell without an index.

    Example:
        >>> axis = torch.arange(32) / 32
        >>> wave = (2 * torch.pi * 6 * axis).cos().reshape(1, 1, 32)  # 6 of at most 16 cycles: the fourth of 8 shells
        >>> shell_power(wave).flatten().round(decimals=3)
        tensor([0., 0., 0., 4., 0., 0., 0., 0.])
    """
    spatial = images.shape[2:]
    with full_precision(images.device):
        spectrum = torch.fft.fftn(at_least_single(images), dim=tuple(range(2, images.ndim)))
        power = (spectrum.real.square() + spectrum.imag.square()).flatten(2) / spatial.numel()
        numbers = shell_numbers(
            spatial, spacing=spacing, shells=shells, highest=highest, device=images.device
        ).flatten()
        sums = power.new_zeros(*power.shape[:2], shells + 1).index_add_(2, numbers, power)
        count = torch.bincount(numbers, minlength=shells + 1)
        return (sums / count.clamp_min(1))[..., :shells]
