"""Re-drawn contrasts: the same anatomy as another, made-up MR sequence would show it, while training.

SynthSeg draws images from dense label maps, a random intensity for each label (Billot et al. 2023, Medical Image
Analysis 86, https://doi.org/10.1016/j.media.2023.102789). A training seldom has those, so here the tissue classes are
found in the image: clusters of its intensities, with smooth borders, and the labels of the task where there are some.
Each class gets a random mean, two may get the same one, and keeps its texture, weaker, stronger or reversed. So the
order of the tissues changes and edges stay where they are; a label may get a contrast with its surroundings that the
image does not have. Models Genesis (Zhou et al. 2019, https://arxiv.org/abs/1908.06912) bends all intensities by one
curve, SLAug (Su et al. 2023, https://arxiv.org/abs/2211.14805) those of each label by another.

What is drawn is a handful of numbers for each channel. Applying them is the same arithmetic for a whole batch, on the
device of the images. The background, every voxel that is exactly 0, stays; air that is not 0 stays the darkest. Mean
and standard deviation of the foreground stay, too: what is left after normalisation is another contrast.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.data.tissue_classes import class_means, class_shares, foreground_quantiles
from bdfm_nnunet.intensity_changes import (
    biased,
    blurred,
    foreground_mean,
    smooth_coefficients,
    standardised,
)

_CLASSES = 5
_TAIL = 2  # percent of the voxels at each end that count as outliers
_AIR, _LEAST_AIR = 0.06, 0.15  # of the range of intensities, and of the voxels
_SEAM = 0.5  # standard deviation of a filter, in units of the finest spacing
_WAVES = 4

Drawn = Mapping[str, Tensor]


def draw_contrasts(
    shape: Sequence[int],
    *,
    share: float = 1.0,
    labels: int = 1,
    p_own: float = 0.5,
    p_same: float = 0.2,
    texture: tuple[float, float] = (0.3, 1.2),
    p_reversed: float = 0.5,
    p_bias: float = 0.5,
    bias: float = 0.3,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draw everything random about the new contrasts of images.

    Args:
        shape: of the images, (B, C, *spatial).
        share: of the images that get a new contrast.
        labels: number of label values that may have a contrast of their own, the 0 for everything else included.
        p_own: probability that a label has one.
        p_same: probability that a class has the mean of another.
        texture: least and largest factor of the texture of a class.
        p_reversed: probability that the texture of a class is reversed.
        p_bias: probability of a smooth multiplicative field.
        bias: largest standard deviation of its logarithm.
        generator: the only source of randomness.

    Returns:
        Name -> tensor (B, ...), for `redrawn`.

    Example:
        >>> drawn = draw_contrasts((2, 1, 8, 8), labels=3, generator=torch.Generator().manual_seed(0))
        >>> drawn["means"].shape
        torch.Size([2, 1, 3, 5])
    """
    batch, channels, *spatial = shape
    size = (batch, channels, labels, _CLASSES)

    def uniform(*wanted: int) -> Tensor:
        return torch.rand(*wanted, generator=generator)

    chosen, own = uniform(batch) < share, uniform(batch, channels, labels, 1) < p_own
    means, other = uniform(*size), torch.randint(_CLASSES, size, generator=generator)
    means = torch.where(uniform(*size) < p_same, means.gather(3, other), means)
    gains = uniform(*size) * (texture[1] - texture[0]) + texture[0]
    gains = torch.where(uniform(*size) < p_reversed, -gains, gains)
    strength = torch.where(uniform(batch * channels) < p_bias, uniform(batch * channels) * bias, 0.0)
    normal = torch.randn(batch * channels, *[_WAVES] * len(spatial), generator=generator)
    return {
        "chosen": chosen,
        "means": torch.where(own, means, means[:, :, :1]),
        "gains": torch.where(own, gains, gains[:, :, :1]),
        "bias": smooth_coefficients(normal, strength).unflatten(0, (batch, channels)),
    }


def redrawn(
    images: Tensor, drawn: Drawn, labels: Tensor | None = None, *, spacing: Sequence[float] | None = None
) -> Tensor:
    """Return images with new contrasts; those that were not chosen stay as they are, to the bit.

    Args:
        images: (B, C, *spatial), 0 in the background.
        drawn: result of `draw_contrasts` for them, on the CPU.
        labels: (B, *spatial), whole numbers; a number that was not drawn for counts as 0.
        spacing: mm per voxel and axis; by default 1.

    Example:
        >>> images = torch.tensor([0.0, 1.0, 1.1, 3.0, 3.1, 5.0]).reshape(1, 1, 6)
        >>> drawn = draw_contrasts(images.shape, generator=torch.Generator().manual_seed(1), p_bias=0)
        >>> redrawn(images, drawn)
        tensor([[[0.0000, 0.8368, 0.9752, 4.3665, 3.9860, 3.0354]]])
    """
    result = images.clone()
    step = spacing or [1.0] * (images.ndim - 2)
    finest = tuple(min(step) / each for each in step)
    with torch.autocast(images.device.type, enabled=False):
        for row in drawn["chosen"].nonzero()[:, 0].tolist():
            known = None if labels is None else labels[row]
            for channel in range(images.shape[1]):
                numbers = {name: drawn[name][row, channel].to(images.device) for name in ("means", "gains", "bias")}
                result[row, channel] = _recoloured(images[row, channel].float(), numbers, known, finest)
    return result


def _recoloured(image: Tensor, drawn: Drawn, labels: Tensor | None, finest: Sequence[float]) -> Tensor:
    """Return another contrast of one channel (*spatial), with the mean and deviation of the old one."""
    foreground = image != 0
    quantiles = foreground_quantiles(image, foreground)
    low, extent = quantiles[_TAIL], quantiles[-1 - _TAIL] - quantiles[_TAIL]
    air, darkest = _air(quantiles, low + _AIR * extent)
    centres = class_means(quantiles, count=_CLASSES, above=air)
    weights = class_shares(image, foreground, centres, finest=finest)
    texture = image - _mixed(weights, centres[None])
    means, gains = low + extent * drawn["means"], drawn["gains"]
    values = _mixed(weights, means) + texture * _mixed(weights, gains)
    if labels is not None:
        own = torch.where((labels > 0) & (labels < len(means)), labels, 0).long()
        apart = _mixed(weights, means, own) + texture * _mixed(weights, gains, own) - values
        sigmas = torch.tensor([finest], device=image.device) * _SEAM  # voxels at a border hold a part of both tissues
        values = values + blurred(apart[None, None], sigmas)[0, 0]
    values = torch.where((air > 0) & (image <= darkest), image, values)
    values = low + biased((values - low)[None, None], drawn["bias"][None])[0, 0]
    return _with_statistics(values, image, foreground)


def _air(quantiles: Tensor, dark: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of the air, 0 where there is none to speak of, and the brightest value that its noise reaches.

    Many dark voxels are air. Their noise reaches as far above their mean as below it.
    """
    chosen = quantiles <= dark
    mean = (quantiles * chosen).sum() / chosen.sum()
    brightest = torch.maximum(2 * mean - quantiles[0], dark)
    share = (quantiles <= brightest).float().mean()
    return torch.where(share > _LEAST_AIR, share, 0), brightest


def _with_statistics(values: Tensor, image: Tensor, foreground: Tensor) -> Tensor:
    """Return values with mean and deviation of the image's foreground, and the image's background."""
    inside, old = foreground[None, None], image[None, None]
    mean = foreground_mean(old, inside)
    deviation = foreground_mean((old - mean).square(), inside).sqrt()
    return torch.where(inside, standardised(values[None, None], inside) * deviation + mean, old)[0, 0]


def _mixed(weights: Tensor, values: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the mean of the classes' values of each voxel's label, (labels, classes) -> (*spatial)."""
    mixed = torch.zeros_like(weights[0])
    for weight, each in zip(weights, values.unbind(1), strict=True):
        mixed.addcmul_(weight, each[0] if labels is None else each[labels])
    return mixed


class ContrastTransform:
    """New contrasts in nnU-Net's chain of transforms, of single samples: "image" by "segmentation", which stays.

    Args:
        share: of the samples that get a new contrast.
        labels: number of label values from 0 on that may have a contrast of their own; others count as 0.
        spacing: mm per voxel and axis.

    Example:
        >>> transform = ContrastTransform(share=1.0, labels=3, spacing=(1.0, 1.0))
        >>> sample = {"image": torch.rand(1, 8, 8), "segmentation": torch.randint(3, (1, 8, 8))}
        >>> transform(**sample)["image"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, *, share: float, labels: int, spacing: Sequence[float]) -> None:
        self.share = share
        self.labels = labels
        self.spacing = tuple(spacing)

    def __call__(self, **sample: Any) -> dict[str, Any]:
        """Draw from torch's global random state, as nnU-Net's transforms do, and change "image"."""
        images, labels = sample["image"][None], sample["segmentation"][:1]
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        drawn = draw_contrasts(images.shape, share=self.share, labels=self.labels, generator=generator)
        return sample | {"image": redrawn(images, drawn, labels, spacing=self.spacing)[0]}
