"""Sliding windows over one volume: which are computed, in what batches, and how their logits are joined.

The sums are those of nnU-Net: each window's logits times a weight, over the sum of the weights, in half precision. What
differs is how the logits of the windows come about. Windows that hold nothing but background look the same, so they
share one pass through the network, whose answer is exact for all of them.

Shapes: volume (C, *spatial), window (C, *patch), images of a batch (B, C, *patch), logits (B, K, *patch).
"""

import logging
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Window = tuple[Any, ...]
"""Index of a window in the volume, as nnU-Net makes it: all channels, then a slice (or a number) an axis."""
Predict = Callable[[Tensor], Tensor]


class Progress(Protocol):
    """The interface of a progress bar over windows, such as tqdm's."""

    def update(self, n: int, /) -> Any:
        """Count `n` more windows as done."""


def group_alike(volume: Tensor, windows: Sequence[Window]) -> list[list[Window]]:
    """Group windows with the same content: those in which every channel is constant, by its values.

    Every other window is a group alone. Groups are in the order of their first windows.
    """
    groups: dict[int | tuple[float, ...], list[Window]] = {}
    for number, window in enumerate(windows):
        values = _constant_values(volume[window])
        groups.setdefault(number if values is None else values, []).append(window)
    return list(groups.values())


def _constant_values(content: Tensor) -> tuple[float, ...] | None:
    corner = content[(slice(None), *(slice(1),) * (content.ndim - 1))]
    return tuple(corner.flatten().tolist()) if bool((content == corner).all()) else None


def mirrorings(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return the axes (of a batch) to mirror in each copy of a window: none at first, then as nnU-Net orders them.

    Args:
        axes: spatial axes that may be mirrored, the first being 0.
    """
    dims = [axis + 2 for axis in axes or ()]
    return [chosen for count in range(len(dims) + 1) for chosen in combinations(dims, count)]


def mean_over_mirrorings(predict: Predict, images: Tensor, copies: Sequence[tuple[int, ...]]) -> Tensor:
    """Mean logits over mirrored copies of the images, all copies in one batch.

    Args:
        predict: images to logits.
        images: (B, C, *patch).
        copies: mirrored axes of each copy; the first is not mirrored.
    """
    batch = torch.cat([images.flip(axes) if axes else images for axes in copies])
    mean, *rest = predict(batch).float().chunk(len(copies))
    for axes, logits in zip(copies[1:], rest, strict=True):
        mean += logits.flip(axes)
    return mean.div_(len(copies))


class Batches:
    """A runner of a network on as many images at once as it is told to, or as the memory holds.

    Args:
        network: images to logits.
        limit: the most images in one pass; halved for good when the device's memory does not suffice.
    """

    def __init__(self, network: Predict, limit: int) -> None:
        self.network = network
        self.limit = limit

    def __call__(self, images: Tensor) -> Tensor:
        """Map (B, C, *patch) to (B, K, *patch)."""
        answers: list[Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + self.limit]
            try:
                answers.append(self.network(part))
            except torch.OutOfMemoryError:
                if self.limit == 1:
                    raise
                self.limit //= 2
                logger.warning("the device's memory is full: %d windows at once from now on", self.limit)
            else:
                start += len(part)
        return torch.cat(answers) if len(answers) > 1 else answers[0]


def join_windows(
    volume: Tensor,
    groups: Sequence[Sequence[Window]],
    predict: Predict,
    *,
    weight: Tensor | int,
    classes: int,
    together: int,
    device: torch.device,
    progress: Progress,
) -> Tensor:
    """Average the weighted logits of all windows, (K, *spatial) in half precision where the volume lies.

    Args:
        volume: (C, *spatial).
        groups: windows with the same content, see `group_alike`; together they cover the volume.
        predict: images to logits.
        weight: of each voxel of a window, (*patch), where the volume lies, or 1.
        classes: K.
        together: windows that are given to `predict` at once.
        device: where `predict` computes.
        progress: is told of finished windows.

    Raises:
        RuntimeError: a sum is beyond half precision.
    """
    logits = torch.zeros((classes, *volume.shape[1:]), dtype=torch.half, device=volume.device)
    weights = torch.zeros(volume.shape[1:], dtype=torch.half, device=volume.device)
    for start in range(0, len(groups), together):
        chosen = groups[start : start + together]
        images = torch.stack([volume[group[0]] for group in chosen]).to(device)
        for group, answer in zip(chosen, predict(images), strict=True):
            weighted = answer.to(volume.device) * weight
            for window in group:
                logits[window] += weighted
                weights[window[1:]] += weight
            progress.update(len(group))
    torch.div(logits, weights, out=logits)
    if torch.any(torch.isinf(logits)):
        raise RuntimeError("a logit is beyond half precision (65504): the network's output has no usable scale")
    return logits
