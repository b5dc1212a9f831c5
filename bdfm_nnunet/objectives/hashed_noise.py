"""Noise as a function of a seed and a place, the same on every device and however samples are batched."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def normal_noise(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise, float32.

    A hash of seed and place (MurmurHash3's 32-bit finaliser) gives uniform numbers, the Box-Muller transform makes
    them normal.

    Args:
        seeds: (B,) whole numbers from 0 to 2**62, on any device.
        shape: of the noise of a sample.

    Returns:
        (B, *shape) on the device of the seeds.

    Example:
        >>> noise = normal_noise(torch.tensor([5, 6, 5]), (8, 8))
        >>> noise.shape, torch.equal(noise[0], noise[2]), torch.equal(noise[0], noise[1])
        (torch.Size([3, 8, 8]), True, False)
    """
    count = math.prod(shape)
    pairs = torch.arange(2 * ((count + 1) // 2), device=seeds.device)
    words = _mixed(_mixed(pairs ^ (seeds & _WORD)[:, None]) ^ (seeds >> 32)[:, None])
    radius, turn = words.chunk(2, dim=1)
    length = (-2 * ((radius + 0.5) / 2**32).log()).sqrt()
    angle = turn * (2 * math.pi / 2**32)
    return torch.cat([length * angle.cos(), length * angle.sin()], dim=1)[:, :count].reshape(-1, *shape)


def _mixed(words: Tensor) -> Tensor:
    """Return words of 32 bits of which every bit depends on every bit of the given ones."""
    words = ((words ^ (words >> 16)) * 0x85EBCA6B) & _WORD
    words = ((words ^ (words >> 13)) * 0xC2B2AE35) & _WORD
    return words ^ (words >> 16)
