"""Dropout of tokens that their neighbours in space and time repeat (NeuroSTORM, https://arxiv.org/abs/2506.11167).

Shapes: B samples, *grid tokens per axis with time last, C channels; N windows of L tokens, time fastest.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.frequency import patchify, unpatchify
from bdfm_nnunet.hashed_noise import uniform_field

_RADIUS = 2  # tokens: neighbours are 5 x 5 x 5 in the same frame and 5 frames at the same place, as published
_LARGEST = 0.9  # probability, so that a token that stays is not multiplied by more than ten
_ROUNDS = 8  # of scaling after which clipped probabilities have the mean that is wanted
_BEND = 20.0  # sharpness of the bend from no redundancy to some


def redundancy(tokens: Tensor, *, radius: int = _RADIUS) -> Tensor:
    """Return how much a token is like its neighbours, -1 to 1.

    It is the mean of two means of cosines: with the neighbours in the same frame, and with those at the same place.
    Cosines do not know the scale of tokens.

    Args:
        tokens: (B, *grid, C), time last.
        radius: farthest neighbours along an axis.

    Returns:
        (B, *grid) in single precision.

    Example:
        >>> frame = torch.randn(1, 5, 5, 5, 1, 64, generator=torch.Generator().manual_seed(0))
        >>> redundancy(frame.repeat(1, 1, 1, 1, 4, 1)).mean()  # all frames are equal, all places differ
        tensor(0.5...)
    """
    tokens = functional.normalize(tokens.float(), dim=-1)
    axes = range(1, tokens.ndim - 1)
    return (_mean_cosine(tokens, axes[:-1], radius) + _mean_cosine(tokens, axes[-1:], radius)) / 2


def _mean_cosine(tokens: Tensor, axes: Sequence[int], radius: int) -> Tensor:
    """Return the mean cosine of unit tokens with their neighbours along some axes; 0 without any."""
    sums, count = tokens, torch.ones(1, *tokens.shape[1:-1], 1, device=tokens.device)
    for axis in axes:
        sums, count = (_summed(each, axis, radius) for each in (sums, count))
    total = (tokens * (sums - tokens)).sum(-1)
    return total / (count[..., 0] - 1).clamp(min=1)


def _summed(values: Tensor, axis: int, radius: int) -> Tensor:
    """Sum over the positions up to `radius` away along an axis."""
    size = values.shape[axis]
    total = values.clone()
    for step in range(1, min(radius, size - 1) + 1):
        total.narrow(axis, 0, size - step).add_(values.narrow(axis, step, size - step))
        total.narrow(axis, step, size - step).add_(values.narrow(axis, 0, size - step))
    return total


def drop_probabilities(tokens: Tensor, target: float, *, radius: int = _RADIUS) -> Tensor:
    """Return the probability of dropping each token: it grows with its redundancy, and a sample's mean is `target`.

    It is in proportion to the redundancy, but for a smooth bend about 0, so that no two different ones are alike.

    Args:
        tokens: (B, *grid, C), time last.
        target: mean probability, below 0.9, to which single ones are clipped.
        radius: farthest neighbours along an axis.

    Returns:
        (B, *grid).

    Example:
        >>> tokens = torch.randn(2, 4, 4, 4, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> found = drop_probabilities(tokens, 0.2)
        >>> found.flatten(1).mean(1), torch.allclose(found, drop_probabilities(9 * tokens, 0.2), atol=1e-5)
        (tensor([0.2000, 0.2000]), True)
    """
    found = functional.softplus(redundancy(tokens, radius=radius), beta=_BEND)
    axes = tuple(range(1, found.ndim))
    clipped = torch.zeros_like(found, dtype=torch.bool)
    for _ in range(_ROUNDS):  # those that are clipped leave more to the others
        rest = (target - _LARGEST * clipped.float().mean(axes, keepdim=True)).clamp(min=0)
        scale = rest / torch.where(clipped, 0, found).mean(axes, keepdim=True).clamp(min=1e-12)
        clipped = clipped | (found * scale > _LARGEST)
    return torch.where(clipped, _LARGEST, found * scale)


def published_probabilities(tokens: Tensor, window: Sequence[int]) -> Tensor:
    """Return the probabilities of NeuroSTORM's public code, which grow with the scale and not with the redundancy.

    A = softmax(h h^T / sqrt(C)) in a window; a and b are the sums of a row of A over the neighbours in the same frame
    and at the same place (the token itself aside), f and g the largest entries there. The probability is the sum over
    a row of clip((g A / a + f A / b) / 2, 0, 1), divided by the number of neighbours.

    Args:
        tokens: (N, L, C), what the scan of windows returns.
        window: tokens per axis of a window, L together.

    Returns:
        (N, L).

    Example:
        >>> published_probabilities(torch.zeros(1, 4, 3), (2, 1, 1, 2))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    places = torch.tensor(list(product(*map(range, window))), device=tokens.device)
    apart = (places[:, None] - places).abs()
    near, other = (apart <= _RADIUS).all(-1), apart.any(-1)
    beside = [near & other & (apart[..., -1] == 0), near & other & ~apart[..., :-1].any(-1)]
    alike = (tokens @ tokens.mT / math.sqrt(tokens.shape[-1])).softmax(-1)
    sums = [(alike * each).sum(-1, keepdim=True) for each in beside]
    most = [(alike * each).amax(-1, keepdim=True) for each in beside]
    tiny = torch.finfo(alike.dtype).tiny
    shares = (most[1] * alike / sums[0].clamp(min=tiny) + most[0] * alike / sums[1].clamp(min=tiny)) / 2
    count = (beside[0] | beside[1]).sum(-1)
    return (shares.clamp(0, 1).sum(-1) / count.clamp(min=1)).clamp(0, 1)


class RedundancyDropout(nn.Module):
    """Set what a block adds to redundant tokens to zero, and scale it up for those that stay so that the mean stays.

    It acts in training, and only on a pass through the network that has keys, on which alone what is dropped depends.

    Args:
        target: mean probability; the published form has none of that kind, and does not scale.
        stream: number of this dropout among those that have the same keys.
        legacy: drop with `published_probabilities`, which need whole windows.

    Example:
        >>> dropout = RedundancyDropout(0.3)
        >>> scanned = torch.randn(1, 4, 4, 4, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> dropped = (dropout(scanned, torch.tensor([[1, 2]])) == 0).all(-1)
        >>> dropped.float().mean()
        tensor(0.3...)
    """

    def __init__(self, target: float, *, stream: int = 0, legacy: bool = False) -> None:
        super().__init__()
        if not 0 < target < _LARGEST:
            raise ValueError(f"a share of {target} tokens to drop, expected one above 0 and below {_LARGEST}")
        self.target, self.stream, self.legacy = target, stream, legacy

    def forward(
        self, scanned: Tensor, keys: Tensor | None, window: Sequence[int] = (), shift: Sequence[int] = ()
    ) -> Tensor:
        """Return what a block adds to its tokens, thinned.

        Args:
            scanned: (B, *grid, C).
            keys: (B, 2) whole numbers, from `draw_keys`; None for no dropout.
            window: tokens per axis of the windows that were scanned; for the published form.
            shift: of the windows.
        """
        if not self.training or keys is None:
            return scanned
        chance = self.probabilities(scanned.detach(), window, shift)
        kept = uniform_field(keys.to(scanned.device), chance.shape[1:], stream=self.stream) >= chance
        factor = kept.to(chance.dtype) if self.legacy else kept / (1 - chance)
        return scanned * factor[..., None].to(scanned.dtype)

    def probabilities(self, scanned: Tensor, window: Sequence[int] = (), shift: Sequence[int] = ()) -> Tensor:
        """Return the probability of dropping each token, (B, *grid)."""
        if not self.legacy:
            return drop_probabilities(scanned, self.target)
        axes = list(range(1, scanned.ndim - 1))
        rolled = scanned.float().roll([-step for step in shift], axes)
        windows = patchify(rolled.movedim(-1, 1), window)  # (B, windows, C, *window)
        found = published_probabilities(windows.flatten(3).mT.flatten(0, 1), window)
        grid = [size // step for size, step in zip(scanned.shape[1:-1], window, strict=True)]
        spread = unpatchify(found.reshape(*windows.shape[:2], 1, *window), grid)[:, 0]
        return spread.roll(list(shift), axes)
