"""How much of an image's spectrum a linear decoder recovers from the frozen features of an encoder.

At each position of a stage a ridge regression, the same for all positions, predicts the voxels of the position's patch
from its features alone. It is fitted in closed form on some crops and scored on others: which share of the power it
recovers in each radial shell. A stage with fewer channels than its patch has voxels cannot keep all of it; what it
keeps tells what the pre-training made the encoder look at.

Shapes: B batch, P positions, D features, V voxels of a patch with all channels, S shells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, full_precision, patchify, unpatchify
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.spectrum_metrics import detail_power, share_kept, shell_middles


class RidgeRegression:
    """Linear regression with a penalty, from sums over any number of batches; memory does not grow with them.

    The weights minimise the mean of |y - W x - b|^2 over the samples, plus `ridge` times the mean variance of the
    features times |W|^2 (Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634).

    Args:
        ridge: penalty, relative to the mean variance of the features.

    Example:
        >>> x = torch.randn(1000, 3)
        >>> regression = RidgeRegression(ridge=1e-6)
        >>> regression.add(x[:500], 2 * x[:500] + 1)
        >>> regression.add(x[500:], 2 * x[500:] + 1)
        >>> regression.solve()(torch.tensor([[1.0, 0.0, -1.0]])).round(decimals=3)
        tensor([[ 3.,  1., -1.]])
    """

    def __init__(self, *, ridge: float) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge is {ridge}, expected a number above 0")
        self.ridge = ridge
        self.samples = 0
        self._sums: list[Tensor] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add samples: features (N, D) and targets (N, V)."""
        x, y = features.double(), targets.double()
        sums = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self._sums = [before + now for before, now in zip(self._sums, sums, strict=True)] if self._sums else sums
        self.samples += len(x)

    def solve(self) -> "Linear":
        """Return the best linear map.

        Raises:
            ValueError: there are no samples.
        """
        if not self.samples:
            raise ValueError("nothing was added to the regression: give at least one crop to fit on")
        mean_x, mean_y, squares, products = (each / self.samples for each in self._sums)
        covariance = squares - mean_x.outer(mean_x)
        # features that never change have a variance of rounding alone
        least = 1e-10 * squares.diagonal().mean().clamp_min(1e-100)
        penalty = self.ridge * covariance.diagonal().mean().clamp_min(least)
        covariance = covariance + penalty * torch.eye(len(mean_x), dtype=torch.float64, device=mean_x.device)
        weight = torch.linalg.solve(covariance, products - mean_x.outer(mean_y))
        return Linear(weight, mean_y - mean_x @ weight)


@dataclass(frozen=True)
class Linear:
    """A linear map x W + b.

    Attributes:
        weight: W, (D, V).
        bias: b, (V,).

    Example:
        >>> Linear(torch.eye(2), torch.ones(2))(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 3.]])
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (N, D) to (N, V), in single precision."""
        return (features.double() @ self.weight.double() + self.bias.double()).float()


@dataclass(frozen=True)
class StageSpectrum:
    """What a linear decoder recovers from one stage of an encoder.

    Attributes:
        stride: voxels per axis of the patch of a position.
        channels: features of a position.
        positions: positions that the decoder was fitted on; a few per channel say little about unseen crops.
        frequencies: (S,), middle of each shell in cycles/mm.
        recovered: (S,), share of the power of held-out crops; 1 is all of it, NaN where they have none. A bad decoder
            is below 0.

    Example:
        >>> shells = torch.tensor([0.25, 0.75])
        >>> StageSpectrum((2, 2), 4, 100, shells, recovered=torch.tensor([1.0, 0.5])).recovered
        tensor([1.0000, 0.5000])
    """

    stride: tuple[int, ...]
    channels: int
    positions: int
    frequencies: Tensor
    recovered: Tensor


@torch.no_grad()
def embedding_spectrum(
    view: EncoderView,
    fit: Iterable[Tensor],
    held_out: Iterable[Tensor],
    *,
    spacing: Sequence[float] | None = None,
    shells: int = 8,
    ridge: float = 1e-3,
) -> list[StageSpectrum]:
    """Return which share of the spectrum a linear decoder recovers from each stage of a frozen encoder.

    Args:
        view: the encoder, see `encoder_of`; it sees whole images and is in evaluation mode meanwhile.
        fit: crops (B, C, *spatial), each axis a multiple of the encoder's total stride; gone through once.
        held_out: crops to score, of the same size, best of other patients; gone through once.
        spacing: voxel size in mm; 1 mm where it is None.
        shells: number of radial shells, see `spectrum_metrics.detail_power`.
        ridge: penalty of the regression, see `RidgeRegression`.

    Returns:
        One entry per stage, finest first.

    Raises:
        ValueError: there are no crops, or they do not fit the encoder.

    Example:
        >>> from bdfm_nnunet.networks import SwinUNet, encoder_of
        >>> network = SwinUNet(1, 2, strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], features_per_stage=[4, 8, 16],
        ...                    depths=[1, 1], num_heads=[1, 2], window_size=[4, 4, 4])
        >>> crops = torch.randn(4, 1, 1, 16, 16, 16)
        >>> stages = embedding_spectrum(encoder_of(network), crops[:3], crops[3:], shells=4)
        >>> [(stage.stride, stage.channels, stage.positions) for stage in stages]
        [((2, 2, 2), 8, 1536), ((4, 4, 4), 16, 192)]
        >>> stages[0].recovered.shape
        torch.Size([4])
    """
    training = view.module.training
    view.module.eval()
    try:
        regressions = [RidgeRegression(ridge=ridge) for _ in view.strides]
        for images in fit:
            for regression, features, stride in zip(regressions, _features(view, images), view.strides, strict=True):
                regression.add(features, _patches(images, stride))
        decoders = [regression.solve() for regression in regressions]
        return _scored(view, decoders, [each.samples for each in regressions], held_out, spacing, shells)
    finally:
        view.module.train(training)


def _scored(
    view: EncoderView,
    decoders: Sequence[Linear],
    positions: Sequence[int],
    held_out: Iterable[Tensor],
    spacing: Sequence[float] | None,
    shells: int,
) -> list[StageSpectrum]:
    lost: list[Tensor | float] = [0.0] * len(decoders)
    power: Tensor | float = 0.0
    spatial: Sequence[int] = ()
    for images in held_out:
        images, spatial = at_least_single(images), images.shape[2:]
        power = power + detail_power(images, spacing=spacing, shells=shells).sum((0, 1))
        for stage, features in enumerate(_features(view, images)):
            rebuilt = _images(decoders[stage](features), images, view.strides[stage])
            lost[stage] = lost[stage] + detail_power(rebuilt - images, spacing=spacing, shells=shells).sum((0, 1))
    if not isinstance(power, Tensor):
        raise ValueError("there is nothing to score: give at least one held-out crop")
    middles = shell_middles(spatial, spacing=spacing, shells=shells)
    return [
        StageSpectrum(stride, channels, count, middles, share_kept(torch.as_tensor(missed), power).cpu())
        for stride, channels, count, missed in zip(view.strides, view.channels, positions, lost, strict=True)
    ]


def _features(view: EncoderView, images: Tensor) -> list[Tensor]:
    """Return the features of each stage, (B P, D)."""
    if any(size % step for size, step in zip(images.shape[2:], view.strides[-1], strict=True)):
        raise ValueError(f"crops of {tuple(images.shape[2:])} voxels are no multiple of the stride {view.strides[-1]}")
    with full_precision(images.device):
        features = view.module(at_least_single(images))
    return [each.flatten(2).transpose(1, 2).flatten(0, 1) for each in features]


def _patches(images: Tensor, stride: Sequence[int]) -> Tensor:
    """Return the voxels of each patch, (B P, V)."""
    return patchify(at_least_single(images), stride).flatten(2).flatten(0, 1)


def _images(patches: Tensor, images: Tensor, stride: Sequence[int]) -> Tensor:
    """Return images of the shape of others, from their patches (B P, V)."""
    grid = tuple(size // step for size, step in zip(images.shape[2:], stride, strict=True))
    return unpatchify(patches.reshape(len(images), -1, images.shape[1], *stride), grid).to(images.dtype)
