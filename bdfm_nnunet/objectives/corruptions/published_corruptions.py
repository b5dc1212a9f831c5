"""The corruptions of Frepa's public code, faults and all, for images of any number of axes.

https://arxiv.org/abs/2407.14651. As coded: masked frequencies take the moments of the *image* patch at the same index,
which are nearly 0 for a spectrum; every frequency outside the middle is masked alike; the noise is real and not
Hermitian, so that an imaginary part of 6 to 18 % is dropped. The corrected forms are in the other modules of this
folder.
"""

import math

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, full_precision
from bdfm_nnunet.objectives.corruptions.patch_noise import chosen_voxels, replace_patches
from bdfm_nnunet.objectives.corruptions.spectral_fills import per_sample


def published_image_corruption(
    images: Tensor, uniform: Tensor, noise: Tensor, *, ratio: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Replace patches by noise with their mean and standard deviation, wherever they lie.

    Args:
        images: (B, C, *spatial).
        uniform: (B, *grid), uniform in [0, 1); published: 16 patches per axis.
        noise: standard normal (B, C, *spatial).
        ratio: a patch is replaced where `uniform` is below it; one number or one per sample, (B,).

    Returns:
        The images, and the replaced voxels, boolean (B, *spatial).

    Example:
        >>> images, noise = torch.rand(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
        >>> out, voxels = published_image_corruption(images, torch.rand(1, 16, 16), noise, ratio=0.6)
        >>> torch.equal(out[:, 0][~voxels], images[:, 0][~voxels])
        True
    """
    patch = _patch(images, uniform)
    chosen = uniform < per_sample(ratio, uniform)
    return replace_patches(images, noise, chosen, patch_size=patch, fill="moments"), chosen_voxels(
        chosen, images.shape[2:], patch
    )


def published_frequency_corruption(
    images: Tensor,
    uniform: Tensor,
    noise: Tensor,
    low_noise: Tensor,
    *,
    ratio: float | Tensor,
    sigma: float | Tensor,
    width: float | Tensor,
) -> Tensor:
    """Replace patches of the shifted spectrum, add noise at low frequencies, and drop the imaginary part.

    Args:
        images: (B, C, *spatial).
        uniform: (B, *grid), uniform in [0, 1); published: 32 patches per axis.
        noise: standard normal (B, C, *spatial), the real values of replaced frequencies before scaling.
        low_noise: standard normal (B, C, *spatial), the real perturbation before scaling.
        ratio: a patch is replaced where `uniform` is below it, but for the two middle ones of each axis.
        sigma: size of the perturbation, relative to the largest coefficient of an image; published: |N(5e-4, 1e-4)|.
        width: standard deviation of the perturbation's gain in cycles per voxel; published: 0.15 to 0.25.

    Returns:
        (B, C, *spatial).

    Example:
        >>> images, noise, low = torch.randn(3, 1, 1, 64, 64)
        >>> sizes = {"ratio": 0.6, "sigma": 5e-4, "width": 0.2}
        >>> out = published_frequency_corruption(images, torch.rand(1, 32, 32), noise, low, **sizes)
    """
    dims = tuple(range(2, images.ndim))
    with full_precision(images.device):
        images = at_least_single(images)
        spectrum = torch.fft.fftshift(torch.fft.fftn(images, dim=dims), dim=dims)
        masked, patch = uniform < per_sample(ratio, uniform), _patch(images, uniform)
        masked[(slice(None), *(slice(max(n // 2 - 1, 0), n // 2 + 1) for n in uniform.shape[1:]))] = False
        filling = replace_patches(images, noise, masked, patch_size=patch, fill="moments")
        changed = torch.where(chosen_voxels(masked, images.shape[2:], patch).unsqueeze(1), filling + 0j, spectrum)
        largest = spectrum.abs().amax(tuple(range(1, images.ndim)), keepdim=True)
        changed = changed + _gain(images, width) * low_noise * largest * per_sample(sigma, images)
        return torch.fft.ifftn(torch.fft.ifftshift(changed, dim=dims), dim=dims).real


def _gain(images: Tensor, width: float | Tensor) -> Tensor:
    """Return exp(-r^2 / (2 width^2)) on the shifted spectrum, r in cycles per voxel, and 0 at frequency 0."""
    spatial = images.shape[2:]
    squares = images.new_zeros((1,) * images.ndim)
    for axis, size in enumerate(spatial):
        cycles = (torch.arange(size, device=images.device, dtype=images.dtype) - size // 2) / size
        squares = squares + cycles.square().reshape(-1, *(1,) * (len(spatial) - 1 - axis))
    scale = per_sample(width, images)
    return (-0.5 * squares / (scale * scale)).exp() * (squares > 0)


def _patch(images: Tensor, uniform: Tensor) -> list[int]:
    """Return the voxels per axis of the patches that make a grid."""
    return [math.ceil(size / count) for size, count in zip(images.shape[2:], uniform.shape[1:], strict=True)]
