"""One vector per image from the feature maps of an encoder, shown in windows that cover the image.

Each voxel of the image counts once, however many windows show it: a voxel that n windows show counts 1/n in each. A
position of a feature map weighs what its stride x stride x stride voxels add; positions beyond the image weigh nothing.

Shapes: image (C, *spatial), weights (*spatial), feature maps (C_i, *spatial_i).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import EncoderView

Pooling = Literal["mean", "max", "mean+std", "covariance"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
MOST_COVARIANCE_CHANNELS = 64
"""Covariances of more channels are those of this many random directions, the same ones for every image."""


def stages_of(text: str, count: int) -> list[int]:
    """Return the numbers of the stages that an option names.

    Args:
        text: "last", "all", or numbers between commas, the finest stage being 0.
        count: number of stages.

    Raises:
        InputError: there is no such stage.

    Example:
        >>> stages_of("last", 4), stages_of("0,2", 4)
        ([3], [0, 2])
    """
    if text in ("last", "all"):
        return [count - 1] if text == "last" else list(range(count))
    parts = [part.strip() for part in text.split(",")]
    found = [int(part) if part.isdecimal() else -1 for part in parts]
    if any(not 0 <= stage < count for stage in found) or len(set(found)) < len(found):
        raise InputError(
            f"--stages {text} names no stages of this encoder: give last, all, or some of "
            f"{', '.join(map(str, range(count)))} once each"
        )
    return sorted(found)


class PooledStage:
    """Running sums over the positions of one stage.

    Args:
        pooling: what the vector holds: means; largest values; means, then standard deviations; or the covariances of
            all pairs of channels (the upper triangle, those off the diagonal times the root of 2).

    Example:
        >>> stage = PooledStage("mean+std")
        >>> stage.add(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([1.0, 1.0, 0.0]))
        >>> stage.vector().tolist()
        [2.0, 1.0]
    """

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling
        self.weight = 0.0
        self.total: Tensor | None = None
        self.square: Tensor | None = None

    def add(self, features: Tensor, weights: Tensor) -> None:
        """Add positions.

        Args:
            features: (C, *grid).
            weights: (*grid), 0 or more.
        """
        flat, weight = features.flatten(1).double(), weights.flatten().double()
        flat, weight = flat[:, weight > 0], weight[weight > 0]
        if not len(weight):
            return
        self.weight += float(weight.sum())
        if self.pooling == "max":
            largest = flat.amax(1)
            self.total = largest if self.total is None else torch.maximum(self.total, largest)
            return
        weighted = flat * weight
        self.total = weighted.sum(1) + (0 if self.total is None else self.total)
        if self.pooling != "mean":
            products = weighted @ flat.T if self.pooling == "covariance" else (weighted * flat).sum(1)
            self.square = products + (0 if self.square is None else self.square)

    def vector(self) -> NDArray[np.float32]:
        """Return the pooled features.

        Raises:
            InputError: no position had any weight.
        """
        if self.total is None:
            raise InputError("no voxel counts in it (it is empty): leave out this case, or pool without --foreground")
        if self.pooling == "max":
            found = self.total
        elif self.square is None:
            found = self.total / self.weight
        elif self.pooling == "mean+std":
            mean = self.total / self.weight
            found = torch.cat([mean, (self.square / self.weight - mean**2).clamp_min(0).sqrt()])
        else:
            mean = self.total / self.weight
            found = _triangle(self.square / self.weight - torch.outer(mean, mean))
        return found.float().cpu().numpy()


def _triangle(covariance: Tensor) -> Tensor:
    """Return the upper triangle of a covariance, its Frobenius norm unchanged; of random directions if it is large."""
    count = len(covariance)
    if count > MOST_COVARIANCE_CHANNELS:
        drawn = torch.randn(
            count, MOST_COVARIANCE_CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.double
        )
        directions = torch.linalg.qr(drawn).Q.to(covariance.device)
        covariance, count = directions.T @ covariance @ directions, MOST_COVARIANCE_CHANNELS
    rows, columns = torch.triu_indices(count, count)
    return covariance[rows, columns] * torch.where(rows == columns, 1.0, math.sqrt(2.0)).to(covariance)


def pool_image(
    view: EncoderView,
    image: Tensor,
    weights: Tensor,
    *,
    window: Sequence[int],
    stages: Sequence[int],
    poolings: Sequence[Pooling],
    device: str = "cpu",
) -> list[NDArray[np.float32]]:
    """Return a vector of an image per pooling, stage by stage.

    Args:
        view: the encoder, in eval mode on the device.
        image: (C, *spatial).
        weights: how much each voxel counts, 0 or more.
        window: voxels per axis that the encoder sees at once, whole positions of its last stage; smaller images are
            filled up with zeros on both sides.
        stages: numbers of the stages that are pooled.
        poolings: see `PooledStage`.
        device: where the encoder runs.

    Raises:
        InputError: no voxel counts.
    """
    sums = {stage: [PooledStage(pooling) for pooling in poolings] for stage in stages}
    for part, weight in windows_of(image, weights, window, view.strides[-1]):
        if not weight.any():
            continue
        with torch.no_grad():
            maps: list[Tensor] = list(view.module(part[None].to(device)))
        for stage, of_stage in sums.items():
            stride = view.strides[stage]
            added = functional.avg_pool3d(weight[None, None], stride, stride)[0, 0] * math.prod(stride)
            for each in of_stage:
                each.add(maps[stage][0], added.to(maps[stage].device))
    return [np.concatenate([sums[stage][at].vector() for stage in stages]) for at in range(len(poolings))]


def windows_of(
    image: Tensor, weights: Tensor, window: Sequence[int], step: Sequence[int] = (1, 1, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield windows that cover an image, and what each of their voxels counts.

    There are no more than are needed, evenly spread, so that they overlap where the image is no whole number of them.

    Args:
        image: (C, *spatial); filled up with zeros on both sides to a window, or at its ends to a whole number of steps.
        weights: (*spatial).
        window: voxels per axis, whole numbers of steps.
        step: windows start at multiples of this, so that the positions of feature maps are the same in all of them.

    Example:
        >>> parts = list(windows_of(torch.rand(1, 5, 4, 4), torch.ones(5, 4, 4), (4, 4, 4)))
        >>> len(parts), sum(float(weight.sum()) for _, weight in parts)
        (2, 80.0)
    """
    margins = [_margins(*sizes) for sizes in zip(weights.shape, window, step, strict=True)]
    padding = [margin for pair in reversed(margins) for margin in pair]
    image, weights = functional.pad(image, padding), functional.pad(weights.float(), padding)
    starts = [_starts(*sizes) for sizes in zip(weights.shape, window, step, strict=True)]
    for axis, (firsts, full) in enumerate(zip(starts, window, strict=True)):
        counts = torch.zeros(weights.shape[axis])
        for first in firsts:
            counts[first : first + full] += 1
        weights = weights / counts.reshape([-1 if at == axis else 1 for at in range(3)])
    for corner in product(*starts):
        place = tuple(slice(at, at + full) for at, full in zip(corner, window, strict=True))
        yield image[(slice(None), *place)], weights[place]


def _margins(size: int, full: int, step: int) -> tuple[int, int]:
    """Return the voxels that are added before and after an axis."""
    if size > full:
        return 0, -size % step
    before = (full - size) // 2 // step * step
    return before, full - size - before


def _starts(size: int, full: int, step: int) -> list[int]:
    count, free = -(-size // full), (size - full) // step
    return [step * round(number * free / max(count - 1, 1)) for number in range(count)]
