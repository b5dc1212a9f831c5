"""Intensity changes of images for a whole batch at once and any number of axes.

Each takes images (B, C, *spatial), the foreground (a mask of the same shape) where it needs one, and one strength per
sample, (B,). At the neutral strength a sample stays as it is, to the bit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.hashed_noise import normal_field

_REACH = 3  # voxels of a Gaussian filter


def foreground_mean(images: Tensor, foreground: Tensor) -> Tensor:
    """Return the mean of the foreground of each channel, 0 without any, (B, C, 1, ...).

    Example:
        >>> images = torch.tensor([[[0.0, 1.0, 3.0]]])
        >>> foreground_mean(images, images != 0)
        tensor([[[2.]]])
    """
    axes = tuple(range(2, images.ndim))
    count = foreground.sum(axes, keepdim=True)
    return torch.where(foreground, images, 0).sum(axes, keepdim=True) / count.clamp(min=1)


def standardised(images: Tensor, foreground: Tensor) -> Tensor:
    """Return images with mean 0 and standard deviation 1 in the foreground of each channel, and 0 outside.

    The variance is computed in two passes, so that a mean far above the deviation does not spoil it.

    Example:
        >>> images = torch.tensor([[[0.0, 1.0, 3.0]]])
        >>> standardised(images, images != 0)
        tensor([[[ 0., -1., 1.]]])
    """
    centred = torch.where(foreground, images - foreground_mean(images, foreground), 0)
    return centred * (foreground_mean(centred.square(), foreground) + 1e-12).rsqrt()


def unit_range(images: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map the foreground of each channel to [0, 1], the rest to 0.

    Returns:
        The mapped images, and the least value and the range in the foreground, (B, C, 1, ...) each.

    Example:
        >>> images = torch.tensor([[[0.0, 2.0, 4.0, 6.0]]])
        >>> unit_range(images, images != 0)[0]
        tensor([[[0.0000, 0.0000, 0.5000, 1.0000]]])
    """
    axes = tuple(range(2, images.ndim))
    low = torch.where(foreground, images, torch.inf).amin(axes, keepdim=True)
    high = torch.where(foreground, images, -torch.inf).amax(axes, keepdim=True)
    low = torch.where(low.isfinite(), low, 0)
    extent = torch.where(high.isfinite(), high, 0) - low
    scaled = (images - low) / torch.where(extent > 0, extent, 1)
    return torch.where(foreground, scaled, 0), low, extent


def bias_field(coefficients: Tensor, spatial: Sequence[int]) -> Tensor:
    """Return smooth fields made of a few cosines per axis.

    Args:
        coefficients: (B, K, ..., K), of the products of cosines with 0 to K - 1 half waves along each axis.
        spatial: voxels per axis.

    Returns:
        (B, *spatial).

    Example:
        >>> bias_field(torch.tensor([[0.0, 1.0]]), (4,))
        tensor([[ 0.9239, 0.3827, -0.3827, -0.9239]])
    """
    field = coefficients
    for size in spatial:
        places = (torch.arange(size, device=field.device, dtype=field.dtype) + 0.5) / size
        waves = torch.arange(field.shape[1], device=field.device, dtype=field.dtype)
        field = torch.tensordot(field, (math.pi * waves[:, None] * places).cos(), ([1], [0]))
    return field


def smooth_coefficients(normal: Tensor, rms: Tensor) -> Tensor:
    """Return coefficients for `bias_field` of smooth fields without a constant part.

    Args:
        normal: (B, K, ..., K), values of a normal distribution.
        rms: (B,), root mean square of the fields.

    Example:
        >>> smooth_coefficients(torch.ones(1, 3), torch.tensor([1.0]))
        tensor([[0.0000, 1.3131, 0.5252]])
    """
    waves = [torch.arange(count, dtype=torch.float32, device=normal.device) for count in normal.shape[1:]]
    orders = torch.stack(torch.meshgrid(*waves, indexing="ij"))
    damping = 1 / (1 + orders.square().sum(0))
    damping.view(-1)[0] = 0
    coefficients = normal * damping
    power = torch.where(orders > 0, 0.5, 1.0).prod(0)  # the mean square of a product of cosines
    size = (coefficients.square() * power).flatten(1).sum(1).sqrt()
    return coefficients * (rms / size).reshape(-1, *[1] * len(waves))


def biased(images: Tensor, coefficients: Tensor) -> Tensor:
    """Return images times exp of a `bias_field`, as the coils of a scanner leave them; neutral: all 0.

    Example:
        >>> biased(torch.ones(1, 1, 2), torch.tensor([[0.0, 1.0]]))
        tensor([[[2.0281, 0.4931]]])
    """
    return images * bias_field(coefficients, images.shape[2:]).exp()[:, None]


def gamma_changed(images: Tensor, gamma: Tensor) -> Tensor:
    """Return images of values from 0 on, raised to the power gamma; neutral: 1.

    Example:
        >>> gamma_changed(torch.tensor([[[0.25, 1.0]]]), torch.tensor([0.5]))
        tensor([[[0.5000, 1.0000]]])
    """
    power = _per_sample(gamma, images)
    return torch.where(power == 1, images, images.clamp(min=0) ** power)


def contrast_changed(images: Tensor, foreground: Tensor, strength: Tensor) -> Tensor:
    """Return images with more (strength above 0) or less contrast about the mean of the foreground; neutral: 0.

    A factor would be undone by a later standardisation, so the curve is tanh(s v) / tanh(s) of the deviation v from
    the mean, relative to the largest one, and its inverse for negative strengths.

    Example:
        >>> images = torch.tensor([[[-1.0, -0.5, 0.5, 1.0]]])
        >>> contrast_changed(images, torch.ones_like(images, dtype=torch.bool), torch.tensor([1.0]))
        tensor([[[-1.0000, -0.6068, 0.6068, 1.0000]]])
    """
    mean = foreground_mean(images, foreground)
    deviation = torch.where(foreground, images - mean, 0)
    largest = deviation.abs().amax(tuple(range(2, images.ndim)), keepdim=True)
    relative = (deviation / torch.where(largest > 0, largest, 1)).clamp(-1, 1)
    size = _per_sample(torch.where(strength == 0, 1, strength.abs()), images)
    stretched = (size * relative).tanh() / size.tanh()
    squeezed = (relative * size.tanh()).atanh() / size
    chosen = _per_sample(strength, images)
    return torch.where(chosen == 0, images, mean + largest * torch.where(chosen > 0, stretched, squeezed))


def blurred(images: Tensor, sigmas: Tensor) -> Tensor:
    """Return images after a Gaussian filter, cut off at 3 voxels and with repeated edges; neutral: 0.

    Args:
        images: (B, C, *spatial).
        sigmas: (B, axes), standard deviation in voxels.

    Example:
        >>> blurred(torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]]), torch.tensor([[0.5]]))
        tensor([[[2.6387e-04, 1.0645e-01, 7.8657e-01, 1.0645e-01, 2.6387e-04]]])
    """
    offsets = torch.arange(-_REACH, _REACH + 1, device=images.device)
    weights = (-0.5 * (offsets / sigmas[..., None].clamp(min=1e-4)).square()).exp()
    weights = (weights / weights.sum(-1, keepdim=True)).to(images.dtype)
    for axis, size in enumerate(images.shape[2:]):
        places = torch.arange(size, device=images.device)
        total = torch.zeros_like(images)
        for number in range(2 * _REACH + 1):
            shifted = images.index_select(axis + 2, (places + (number - _REACH)).clamp(0, size - 1))
            total = total + shifted * _per_sample(weights[:, axis, number], images)
        images = total
    return images


def lowered_resolution(images: Tensor, factors: Tensor) -> Tensor:
    """Return images as if acquired with larger voxels: nearest ones are kept and interpolated linearly; neutral: 1.

    Args:
        images: (B, C, *spatial).
        factors: (B, axes), size of the larger voxels in voxels, 1 or more.

    Example:
        >>> lowered_resolution(torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]]), torch.tensor([[2.0]]))
        tensor([[[1.0000, 1.5000, 2.5000, 3.5000, 4.5000, 5.0000]]])
    """
    for axis, size in enumerate(images.shape[2:]):
        factor = factors[:, axis, None].to(images.dtype)
        places = (torch.arange(size, device=images.device) + 0.5) / factor - 0.5
        last = (size / factor).ceil() - 1
        lower = places.floor()
        share = _along(places - lower, axis, images).to(images.dtype)
        voxels = [((kept.clamp(min=0).minimum(last) + 0.5) * factor).floor() for kept in (lower, lower + 1)]
        near, far = (
            torch.take_along_dim(images, _along(voxel.clamp(max=size - 1).long(), axis, images), axis + 2)
            for voxel in voxels
        )
        images = near * (1 - share) + far * share
    return images


def noisy(images: Tensor, foreground: Tensor, strength: Tensor, keys: Tensor) -> Tensor:
    """Return images plus normal noise, whose deviation is `strength` times that of the foreground; neutral: 0.

    Args:
        images: (B, C, *spatial).
        foreground: boolean, of the same shape.
        strength: (B,).
        keys: (B, 2) whole numbers, which decide the noise, see `normal_field`.

    Example:
        >>> images = torch.tensor([[[-1.0, 1.0]]])
        >>> noisy(images, images != 0, torch.tensor([0.0]), torch.tensor([[7, 8]]))
        tensor([[[-1., 1.]]])
    """
    deviation = foreground_mean((images - foreground_mean(images, foreground)).square(), foreground).sqrt()
    noise = normal_field(keys, images.shape[1:]).to(images.dtype)
    return images + _per_sample(strength, images) * deviation * noise


def _per_sample(values: Tensor, images: Tensor) -> Tensor:
    """Return (B,) as (B, 1, ...), of the images' type."""
    return values.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))


def _along(values: Tensor, axis: int, images: Tensor) -> Tensor:
    """Return (B, n) as (B, 1, ..., n, ..., 1), with n at a spatial axis."""
    shape = [len(values), *[1] * (images.ndim - 1)]
    shape[axis + 2] = -1
    return values.reshape(shape)
