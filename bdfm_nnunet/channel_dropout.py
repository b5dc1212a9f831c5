"""Channels that a training leaves out at random, so that one network serves every subset of them.

A channel that is left out, or that a case to predict does not have, is 0 everywhere after normalisation: where nnU-Net
normalises whole images the mean, where it normalises the brain alone the value of the background.
"""

import torch
from torch import Tensor

CHANNELS = 30
"""Keeps this random stream apart from others of one seed."""


def draw_channels(samples: int, channels: int, *, dropout: float, generator: torch.Generator) -> Tensor:
    """Draw which channels are kept, boolean (samples, channels).

    Each is left out with the same probability, independently; where that would leave none, one of them stays.

    Args:
        samples: rows.
        channels: columns.
        dropout: probability of leaving a channel out, from 0 on and below 1.
        generator: the only source of randomness.

    Example:
        >>> draw_channels(3, 2, dropout=0.99, generator=torch.Generator().manual_seed(0)).sum(1)
        tensor([1, 1, 1])
    """
    noise = torch.rand(samples, channels, generator=generator)
    return noise >= noise.amax(1, keepdim=True).clamp_max(dropout)


def only_channels(images: Tensor, kept: Tensor, *, axis: int = 1) -> Tensor:
    """Return images with 0 in the channels that are not kept.

    Args:
        images: (B, ..., C, *spatial); channels beyond those of `kept`, such as the labels that a cascade's stage adds,
            stay as they are.
        kept: boolean (B, channels), True = kept.
        axis: of the channels.

    Example:
        >>> only_channels(torch.ones(1, 3, 2), torch.tensor([[True, False]]))[0, :, 0]
        tensor([1., 0., 1.])
    """
    left_out = torch.zeros(len(images), images.shape[axis], dtype=torch.bool, device=images.device)
    left_out[:, : kept.shape[1]] = ~kept.to(images.device)
    shape = [1] * images.ndim
    shape[0], shape[axis] = left_out.shape
    return images.masked_fill(left_out.reshape(shape), 0)
