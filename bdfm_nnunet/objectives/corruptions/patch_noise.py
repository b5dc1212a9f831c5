"""Patches of an image that are replaced by noise with their own histogram, so that no mask token is needed."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.frequency import at_least_single, patchify, unpatchify
from bdfm_nnunet.masking import per_axis, upsample
from bdfm_nnunet.objectives.corruptions.spectral_fills import per_sample

PatchFill = Literal["histogram", "moments"]


def choose_patches(
    images: Tensor,
    uniform: Tensor,
    *,
    patch_size: int | Sequence[int],
    ratio: float | Tensor,
    foreground: float = 0.1,
) -> Tensor:
    """Choose patches that hold foreground.

    A patch holds foreground where, in some channel, its standard deviation is above `foreground` times that of the
    image: air and background that was set to one value have none, and noise in the place of them would teach nothing.

    Args:
        images: (B, C, *spatial).
        uniform: (B, *grid), uniform in [0, 1); see `patch_grid`.
        patch_size: voxels per axis of a patch.
        ratio: share of the foreground's patches to choose, one number or one per sample, (B,).
        foreground: smallest standard deviation of a chosen patch, relative to that of the image; 0 takes every patch.

    Returns:
        Boolean (B, *grid), True = chosen.

    Example:
        >>> images = torch.zeros(1, 1, 8, 8)
        >>> images[..., 4:] = torch.rand(1, 1, 8, 4)
        >>> choose_patches(images, torch.zeros(1, 2, 2), patch_size=4, ratio=0.5)
        tensor([[[False,  True],
                 [False,  True]]])
    """
    if isinstance(ratio, Tensor):
        ratio = ratio.to(uniform).reshape(-1, *(1,) * (uniform.ndim - 1))
    chosen = uniform < ratio
    if foreground == 0:
        return chosen
    patches, inside = _cut(images, patch_size)
    deviation = _moments(patches, inside)[1].flatten(2)
    whole = images.flatten(2).float().std(2, unbiased=False).unsqueeze(1)
    return chosen & (deviation > foreground * whole).any(2).reshape(chosen.shape)


def patch_grid(spatial: Sequence[int], patch_size: int | Sequence[int]) -> tuple[int, ...]:
    """Return the patches per axis, those that are cut off at the end of an axis included.

    Example:
        >>> patch_grid((15, 27, 33), (6, 8, 8))
        (3, 4, 5)
    """
    sizes = per_axis(patch_size, len(spatial))
    return tuple(math.ceil(size / step) for size, step in zip(spatial, sizes, strict=True))


def chosen_voxels(chosen: Tensor, spatial: Sequence[int], patch_size: int | Sequence[int]) -> Tensor:
    """Return the voxels (B, *spatial) of chosen patches (B, *grid).

    Example:
        >>> chosen_voxels(torch.tensor([[True, False]]), (5,), 3)
        tensor([[ True,  True,  True, False, False]])
    """
    voxels = upsample(chosen, per_axis(patch_size, len(spatial)))
    return voxels[(slice(None), *(slice(size) for size in spatial))]


def replace_patches(
    images: Tensor,
    noise: Tensor,
    chosen: Tensor,
    *,
    patch_size: int | Sequence[int],
    fill: PatchFill = "histogram",
    strength: float | Tensor = 1.0,
) -> Tensor:
    """Replace patches by noise with the same intensities.

    Args:
        images: (B, C, *spatial).
        noise: standard normal (B, C, *spatial).
        chosen: boolean (B, *grid), True = replaced. Patches start at the first voxel; the last ones are cut off.
        patch_size: voxels per axis of a patch.
        fill: "histogram" puts the sorted intensities of a patch into the order of its noise, so that its histogram
            stays exactly; "moments" (published) is the patch's mean plus its standard deviation times the noise.
        strength: share of the change that is made, one number or one per sample, (B,).

    Returns:
        (B, C, *spatial), at least in float32.

    Example:
        >>> images = torch.arange(8.0).reshape(1, 1, 8)
        >>> noise = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.0, 0.0, 0.0, 0.0]).reshape(1, 1, 8)
        >>> replace_patches(images, noise, torch.tensor([[True, False]]), patch_size=4)
        tensor([[[2., 0., 3., 1., 4., 5., 6., 7.]]])
    """
    images, noise = at_least_single(images), at_least_single(noise)
    patches, inside = _cut(images, patch_size)
    made = _FILLS[fill](patches, _cut(noise, patch_size)[0], inside)
    grid, spatial = chosen.shape[1:], images.shape[2:]
    voxels = (slice(None), slice(None), *(slice(size) for size in spatial))
    replaced = unpatchify(made, grid)[voxels]
    share = per_sample(torch.as_tensor(strength, dtype=images.dtype, device=images.device), images)
    mixed = torch.lerp(images, replaced, share)  # exactly `replaced` for a share of 1
    return torch.where(chosen_voxels(chosen, spatial, patch_size).unsqueeze(1), mixed, images)


def _cut(images: Tensor, patch_size: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return patches (B, P, C, *patch), zeros beyond the image, and which of their voxels lie inside, (P, *patch)."""
    spatial = images.shape[2:]
    sizes = per_axis(patch_size, len(spatial))
    missing = [-size % step for size, step in zip(spatial, sizes, strict=True)]
    margins = [margin for size in reversed(missing) for margin in (0, size)]
    inside = functional.pad(torch.ones(1, 1, *spatial, device=images.device), margins)
    return patchify(functional.pad(images, margins), sizes), patchify(inside, sizes)[0, :, 0] > 0


def _moments(patches: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of patches (B, P, C, *patch) over the voxels inside the image."""
    dims = tuple(range(3, patches.ndim))
    weight = inside.unsqueeze(1)
    count = weight.sum(tuple(range(2, weight.ndim)), keepdim=True)
    mean = (patches * weight).sum(dims, keepdim=True) / count
    variance = ((patches - mean) * weight).square().sum(dims, keepdim=True) / count
    return mean, variance.sqrt()


def _with_moments(patches: Tensor, drawn: Tensor, inside: Tensor) -> Tensor:
    mean, deviation = _moments(patches, inside)
    return mean + deviation * drawn


def _reordered(patches: Tensor, drawn: Tensor, inside: Tensor) -> Tensor:
    """Return the intensities of each patch in the order of its noise; voxels outside come last in both."""
    outside = ~inside.flatten(1).unsqueeze(1)
    intensities = patches.flatten(3).masked_fill(outside, math.inf).sort(dim=-1).values
    order = drawn.flatten(3).masked_fill(outside, math.inf).argsort(dim=-1, stable=True)
    made = torch.empty_like(intensities).scatter_(-1, order, intensities)
    return made.masked_fill(outside, 0).unflatten(-1, patches.shape[3:])


_FILLS = {"histogram": _reordered, "moments": _with_moments}
