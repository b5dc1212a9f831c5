from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.embedding_spectrum import RidgeRegression, embedding_spectrum
from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from tests.networks.zoo import NETWORKS, network

SPACING = (1.0, 1.0, 2.0)


def _crops(count: int, *spatial: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, channels, *spatial, generator=torch.Generator().manual_seed(seed))


class Patches(nn.Module):
    """An encoder whose features are the voxels of each patch, of the image or of one that is blurred before."""

    def __init__(self, strides: Sequence[Sequence[int]], *, means: bool = False) -> None:
        super().__init__()
        self.strides, self.means, self.dropout = strides, means, nn.Dropout(0.5)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stride in self.strides:
            grid = [size // step for size, step in zip(images.shape[2:], stride, strict=True)]
            values = patchify(images, stride).flatten(2)
            values = values.mean(2, keepdim=True) if self.means else values
            features.append(self.dropout(values).transpose(1, 2).unflatten(2, grid))
        return features


def _view(*strides: tuple[int, ...], means: bool = False, channels: int = 1) -> EncoderView:
    widths = tuple(1 if means else channels * int(np.prod(stride)) for stride in strides)
    return EncoderView(Patches(strides, means=means), channels, widths, strides)


def test_an_encoder_that_keeps_every_voxel_is_recovered_in_every_shell() -> None:
    crops = _crops(6, 16, 12, 8, channels=2)
    view = _view((1, 1, 1), (2, 2, 2), (4, 4, 2), channels=2)
    stages = embedding_spectrum(view, crops[:4], crops[4:], spacing=SPACING, ridge=1e-6)
    for stage, positions in zip(stages, (8 * 1536, 8 * 192, 8 * 48), strict=True):
        assert stage.positions == positions
        shares = stage.recovered[~stage.recovered.isnan()]
        assert len(shares) >= 7 and shares.min() > 0.999


def test_an_encoder_that_keeps_means_recovers_low_shells_alone() -> None:
    """A mean over s voxels passes the share sinc^2 of the power, little of which is left above 1 / s cycles/mm."""
    crops = _crops(6, 48, 48)
    (stage,) = embedding_spectrum(_view((8, 8), means=True), crops[:4], crops[4:])
    assert stage.recovered[0] > 0.45
    assert stage.recovered[2:].abs().max() < 0.05
    (finer,) = embedding_spectrum(_view((2, 2), means=True), crops[:4], crops[4:])
    assert finer.recovered[0] > 0.95 and finer.recovered[2] > 0.6 > 0.3 > finer.recovered[-1]


def test_recovered_shares_agree_with_least_squares() -> None:
    """Of random projections of the patches: NumPy's solution, and the spectra of the errors one by one."""
    crops = _crops(8, 16, 16, seed=3)
    matrix = torch.randn(16, 5, generator=torch.Generator().manual_seed(4))

    class Projected(Patches):
        def forward(self, images: Tensor) -> list[Tensor]:
            (whole,) = super().forward(images)
            return [torch.einsum("bd...,de->be...", whole, matrix)]

    view = EncoderView(Projected([(4, 4)]), 1, (5,), ((4, 4),))
    (stage,) = embedding_spectrum(view, crops[:6], crops[6:], ridge=1e-10, shells=4)
    joined, rest = crops[:6].flatten(0, 1), crops[6:].flatten(0, 1)
    patches = patchify(joined, 4).flatten(2).flatten(0, 1).double().numpy()
    inputs = np.column_stack([patches @ matrix.double().numpy(), np.ones(len(patches))])
    weights = np.linalg.lstsq(inputs, patches, rcond=None)[0]
    lost, power = np.zeros(5), np.zeros(5)
    window = np.hanning(18)[1:-1]
    cycles = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    shell = np.minimum((cycles / 0.125).astype(int), 4)
    for image in rest[:, 0].double().numpy():
        blocks = image.reshape(4, 4, 4, 4).transpose(0, 2, 1, 3).reshape(16, 16)
        found = np.column_stack([blocks @ matrix.double().numpy(), np.ones(16)]) @ weights
        rebuilt = found.reshape(4, 4, 4, 4).transpose(0, 2, 1, 3).reshape(16, 16)
        for sums, field in ((lost, rebuilt - image), (power, image)):
            windowed = (field - field.mean()) * np.outer(window, window)
            np.add.at(sums, shell, np.abs(np.fft.fft2(windowed - windowed.mean())) ** 2)
    np.testing.assert_allclose(stage.recovered, (1 - lost / power)[:4], atol=1e-3)


@pytest.mark.parametrize("batches", [1, 3, 7])
def test_the_regression_does_not_depend_on_the_batches(batches: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(70, 4, generator=generator) + 5, torch.randn(70, 3, generator=generator)
    whole, parts = RidgeRegression(ridge=0.1), RidgeRegression(ridge=0.1)
    whole.add(x, y)
    for part in range(batches):
        parts.add(x[part::batches], y[part::batches])
    for one, other in ((whole.solve().weight, parts.solve().weight), (whole.solve().bias, parts.solve().bias)):
        torch.testing.assert_close(one, other)
    centred, target = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    penalty = 0.1 * centred.var(0, unbiased=False).mean()
    gradient = centred.T @ (centred @ whole.solve().weight - target) / 70 + penalty * whole.solve().weight
    assert gradient.abs().max() < 1e-9


def test_features_that_never_change_recover_nothing() -> None:
    crops = _crops(4, 16, 16)
    view = EncoderView(Patches([(4, 4)], means=True), 1, (1,), ((4, 4),))
    (stage,) = embedding_spectrum(view, torch.zeros(2, 1, 1, 16, 16) + 3, crops)
    assert stage.recovered[1:].abs().max() < 0.05
    constant = RidgeRegression(ridge=1e-3)
    constant.add(torch.ones(10, 2), torch.arange(10.0)[:, None])
    assert constant.solve()(torch.ones(1, 2)).item() == pytest.approx(4.5, abs=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_any_encoder_is_probed_frozen_and_left_as_it_was(kind: str) -> None:
    net = network(kind, 1)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    crops = _crops(3, 32, 32, 32)
    view = encoder_of(net)
    stages = embedding_spectrum(view, crops[:2], crops[2:])
    again = embedding_spectrum(view, crops[:2], crops[2:])  # nothing random
    assert [stage.stride for stage in stages] == list(view.strides)
    assert all(torch.equal(a.recovered, b.recovered) for a, b in zip(stages, again, strict=True))
    assert net.training and view.module.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert stages[0].recovered.max() > stages[-1].recovered.max()


def test_spacing_moves_the_shells() -> None:
    crops = functional.avg_pool3d(_crops(4, 16, 16, 16).flatten(0, 1), 3, 1, 1).unflatten(0, (4, 2))
    view = _view((4, 4, 4), means=True)
    even, thick = (embedding_spectrum(view, crops[:3], crops[3:], spacing=s)[0] for s in (None, (1.0, 1.0, 4.0)))
    assert not torch.allclose(even.recovered, thick.recovered, equal_nan=True)
    assert len(embedding_spectrum(view, crops[:3], crops[3:], shells=3)[0].recovered) == 3


def test_what_cannot_be_probed_is_refused() -> None:
    view, crops = _view((4, 4)), _crops(2, 16, 16)
    with pytest.raises(ValueError, match="no multiple of the stride"):
        embedding_spectrum(view, _crops(1, 18, 16), crops)
    with pytest.raises(ValueError, match="at least one crop to fit on"):
        embedding_spectrum(view, [], crops)
    with pytest.raises(ValueError, match="at least one held-out crop"):
        embedding_spectrum(view, crops, [])
    with pytest.raises(ValueError, match="ridge is 0"):
        embedding_spectrum(view, crops, crops, ridge=0)
