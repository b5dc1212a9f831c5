"""Tissue classes of an image by its intensities alone: clusters, and how far each voxel belongs to each."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_SAMPLES, _ROUNDS = 2**15, 3
_STEP = 1_000_003  # a prime: voxels so far apart follow no axis
_ANYWHERE = 0.02  # weight of classes that the neighbourhood does not have
_POOLS = {
    1: (functional.avg_pool1d, "linear"),
    2: (functional.avg_pool2d, "bilinear"),
    3: (functional.avg_pool3d, "trilinear"),
}


def foreground_quantiles(values: Tensor, foreground: Tensor) -> Tensor:
    """Return the percentiles 0 to 100 of the foreground, (101,), from a part of the voxels; without any, 0.

    Example:
        >>> values = torch.arange(201.0)
        >>> foreground_quantiles(values, values > 0)[[0, 50, 100]]
        tensor([  1., 101., 200.])
    """
    flat, inside = values.flatten(), foreground.flatten()
    if len(flat) > _SAMPLES:
        kept = torch.arange(_SAMPLES, device=flat.device) * _STEP % len(flat)
        flat, inside = flat[kept], inside[kept]
    ranked = torch.where(inside, flat, torch.inf).sort().values
    last = (inside.sum() - 1).clamp(min=0)
    found = ranked[(torch.linspace(0, 1, 101, device=flat.device) * last).round().long()]
    return torch.where(found.isfinite(), found, 0)


def class_means(quantiles: Tensor, *, count: int, above: Tensor | float = 0.0) -> Tensor:
    """Return the means of tissue classes in order, (count,).

    They start with as many voxels each and take a few rounds of k-means. After all rounds, the bright fat of a head
    would have most of the classes.

    Args:
        quantiles: evenly spaced ones.
        count: number of classes.
        above: share of the voxels that are darker than any tissue and left out.

    Example:
        >>> class_means(torch.tensor([0.0, 0.1, 0.2, 0.8, 0.9, 1.0]), count=2)
        tensor([0.1000, 0.9000])
    """
    steps = torch.linspace(0, 1, len(quantiles), device=quantiles.device)
    values = quantiles[((above + (1 - above) * steps) * (len(quantiles) - 1)).round().long()]
    numbers = torch.arange(count, device=values.device)
    means = values[((numbers + 0.5) / count * len(values)).long()]
    for _ in range(_ROUNDS):
        belongs = (values[:, None] - means).abs().argmin(1, keepdim=True) == numbers
        size = belongs.sum(0)
        means = torch.where(size > 0, (belongs * values[:, None]).sum(0) / size.clamp(min=1), means)
    return means.sort().values


def class_shares(image: Tensor, foreground: Tensor, means: Tensor, *, finest: Sequence[float] = (1, 1, 1)) -> Tensor:
    """Return how far each voxel belongs to each class, 1 in all.

    It is the posterior of a normal likelihood and of a prior from the neighbourhood. Without the prior, voxels between
    two tissues would fall into whatever class lies between these, and each edge would get a contour.

    Args:
        image: (*spatial), one to three axes.
        foreground: boolean, of the same shape.
        means: (classes,), in order.
        finest: the finest spacing relative to that of each axis; slices thicker than twice the finest are left out of
            the neighbourhood.

    Returns:
        (classes, *spatial).

    Example:
        >>> image = torch.tensor([0.0, 0.1, 0.0, 0.5, 1.0, 0.9, 1.0])
        >>> shares = class_shares(image, image > -1, torch.tensor([0.0, 0.5, 1.0]), finest=(1.0,))
        >>> shares.argmax(0)  # the voxel of 0.5 is no tissue but an edge
        tensor([0, 0, 0, 0, 2, 2, 2])
    """
    weights = _likelihoods(image, means)
    weights *= _neighbourhood(image, foreground, means, finest).add_(_ANYWHERE)
    return weights.div_(weights.sum(0))


def _likelihoods(image: Tensor, means: Tensor) -> Tensor:
    """Return normal likelihoods as wide as the gaps to the next classes, (classes, *image.shape); none is 0 everywhere.

    Beyond the outermost means they are those of the means.
    """
    gaps = means.diff()
    widths = (torch.cat([gaps[:1], gaps]) + torch.cat([gaps, gaps[-1:]])).clamp(min=1e-6) / 4
    within = image.clamp(means[0], means[-1])
    return torch.stack([((within - m) / w).square().mul_(-0.5).exp_() for m, w in zip(means, widths, strict=True)])


def _neighbourhood(image: Tensor, foreground: Tensor, means: Tensor, finest: Sequence[float]) -> Tensor:
    """Return the share of each class among the voxels around that lie inside of tissues, (classes, *spatial)."""
    places = {
        axis: torch.linspace(0, size - 1, (size + 1) // 2, device=image.device).round().long()
        for axis, (size, share) in enumerate(zip(image.shape, finest, strict=True))
        if share > 0.5 and size > 2
    }
    inside = _thinned(foreground, places)
    steepness = _steepness(image, places).broadcast_to(inside.shape)
    usual = foreground_quantiles(steepness, inside)[50].clamp(min=1e-12)
    shares = _likelihoods(_thinned(image, places), means) ** 4
    shares = shares / shares.sum(0) * (inside / (1 + steepness / usual).square())
    pool, mode = _POOLS[image.ndim]
    size = [3 if axis in places and size > 2 else 1 for axis, size in enumerate(inside.shape)]
    shares = pool(shares[None], size, stride=1, padding=[each // 2 for each in size])
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return functional.interpolate(shares, size=image.shape, mode=mode, align_corners=True)[0]


def _steepness(image: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    """Return the squared slope at every place."""
    total = image.new_zeros(())
    for axis, middle in places.items():
        ahead, behind = (middle + 1).clamp(max=image.shape[axis] - 1), (middle - 1).clamp(min=0)
        slope = image.index_select(axis, ahead) - image.index_select(axis, behind)
        total = total + _thinned(slope, {other: each for other, each in places.items() if other != axis}).square()
    return total


def _thinned(values: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    for axis, kept in places.items():
        values = values.index_select(axis, kept)
    return values
