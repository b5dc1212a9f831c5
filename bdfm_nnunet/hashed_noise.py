"""Random fields that a few drawn numbers decide, made where they are used.

A generator on the CPU draws two numbers per sample; the fields of a million values are computed from them on the
device. So nothing large is drawn or copied, each sample's fields depend on nothing but its numbers, and CPU and GPU
make the same ones. The n-th value is a hash of n and the numbers: two rounds of `lowbias32`
(https://github.com/skeeto/hash-prospector), in which each bit of the input flips half of the bits of the output.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def draw_keys(batch: int, *, generator: torch.Generator) -> Tensor:
    """Draw the numbers that decide the fields of each sample, whole numbers (B, 2).

    Example:
        >>> draw_keys(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """
    return torch.randint(2**31, (batch, 2), generator=generator, dtype=torch.int64)


def uniform_field(keys: Tensor, shape: Sequence[int], *, stream: int = 0) -> Tensor:
    """Return values that are uniform in [0, 1).

    Args:
        keys: (B, 2), from `draw_keys`.
        shape: shape of a sample's field.
        stream: number of the field; other fields of the same sample have other numbers.

    Returns:
        (B, *shape) in float32.

    Example:
        >>> keys = draw_keys(2, generator=torch.Generator().manual_seed(0))
        >>> field = uniform_field(keys, (40, 40))
        >>> torch.equal(field[1:], uniform_field(keys[1:], (40, 40)))  # whatever else is in the batch
        True
        >>> bool((field.mean((1, 2)) - 0.5).abs().max() < 0.02)
        True
    """
    return _hashed(keys, shape, 2 * stream).float() * 2**-24


def normal_field(keys: Tensor, shape: Sequence[int], *, stream: int = 0) -> Tensor:
    """Return values of a standard normal distribution, by the transform of Box and Muller.

    Args:
        keys: (B, 2), from `draw_keys`.
        shape: shape of a sample's field.
        stream: number of the field, apart from those of `uniform_field`.

    Returns:
        (B, *shape) in float32.

    Example:
        >>> keys = draw_keys(1, generator=torch.Generator().manual_seed(0))
        >>> field = normal_field(keys, (100, 100))
        >>> bool((field.std() - 1).abs() < 0.02)
        True
    """
    count = 2**20 + 2 * stream  # beyond the streams of `uniform_field`
    radius = ((_hashed(keys, shape, count).float() + 0.5) * 2**-24).log().mul(-2).sqrt()
    angle = _hashed(keys, shape, count + 1).float() * (2 * math.pi * 2**-24)
    return radius * angle.cos()


def _hashed(keys: Tensor, shape: Sequence[int], stream: int) -> Tensor:
    """Return whole numbers from 0 to 2^24 - 1, (B, *shape)."""
    first, second = (keys[:, number].to(torch.int32).unsqueeze(1) for number in (0, 1))
    numbers = torch.arange(math.prod(shape), dtype=torch.int32, device=keys.device)
    mixed = _mixed(_mixed(numbers ^ _mixed(first + stream)) + second)
    return ((mixed >> 8) & 0xFFFFFF).reshape(len(keys), *shape)


def _mixed(values: Tensor) -> Tensor:
    """Return `lowbias32` of 32-bit numbers; their products wrap around, their shifts must fill with zeros."""
    values = (values ^ ((values >> 16) & 0xFFFF)) * 0x7FEB352D
    values = (values ^ ((values >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return values ^ ((values >> 16) & 0xFFFF)
