"""Pooling over windows against slow loops, and over a whole image against the encoder applied by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.probes.pooled_features import POOLINGS, PooledStage, Pooling, pool_image, stages_of, windows_of


class Blocks(nn.Module):
    """Strides 1 and 2 without any view beyond a position, so that windows change nothing."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Conv3d(2, 3, 1)
        self.second = nn.Conv3d(3, 5, 2, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.first(images).relu()
        return [fine, self.second(fine)]


VIEW = EncoderView(Blocks().eval(), 2, (3, 5), ((1, 1, 1), (2, 2, 2)))


def _slow(values: np.ndarray, weights: np.ndarray, pooling: Pooling) -> list[float]:
    """Of positions (C, N) and their weights (N,), number by number."""
    channels, total = len(values), sum(weights)
    means = [sum(w * v for w, v in zip(weights, row, strict=True)) / total for row in values]
    if pooling == "mean":
        return means
    if pooling == "max":
        return [max(v for w, v in zip(weights, row, strict=True) if w > 0) for row in values]
    found = {
        (a, b): sum(w * (x - means[a]) * (y - means[b]) for w, x, y in zip(weights, values[a], values[b], strict=True))
        / total
        for a, b in itertools.combinations_with_replacement(range(channels), 2)
    }
    if pooling == "mean+std":
        return means + [found[a, a] ** 0.5 for a in range(channels)]
    return [value if a == b else value * 2**0.5 for (a, b), value in found.items()]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_that_of_a_slow_loop(pooling: Pooling) -> None:
    generator = torch.Generator().manual_seed(1)
    values, weights = torch.randn(3, 4, 2, 2, generator=generator), torch.rand(4, 2, 2, generator=generator)
    weights[0] = 0
    stage = PooledStage(pooling)
    for at in range(2):  # in two parts
        stage.add(values[:, 2 * at : 2 * at + 2], weights[2 * at : 2 * at + 2])
    expected = _slow(values.flatten(1).numpy(), weights.flatten().numpy(), pooling)
    np.testing.assert_allclose(stage.vector(), expected, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("window", [(4, 4, 4), (6, 8, 4), (10, 12, 8)])
def test_windows_count_each_voxel_once(pooling: Pooling, window: tuple[int, ...]) -> None:
    """Whatever the windows, an encoder that sees no neighbours gives what the whole image gives."""
    generator = torch.Generator().manual_seed(2)
    image, inside = torch.randn(2, 6, 10, 4, generator=generator), torch.rand(6, 10, 4, generator=generator) > 0.4
    with torch.no_grad():
        maps = VIEW.module(image[None])
    coarse = inside.float().reshape(3, 2, 5, 2, 2, 2).sum((1, 3, 5))
    expected = [
        np.array(_slow(maps[at][0].flatten(1).numpy(), weights.flatten().numpy(), pooling))
        for at, weights in enumerate((inside.float(), coarse))
    ]
    known = {"stages": [0, 1], "poolings": [pooling]}
    (found,) = pool_image(VIEW, image, inside.float(), window=window, **known)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=2e-4, atol=1e-5)


def test_large_covariances_are_of_fixed_directions() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(80, 500, generator=generator)
    vectors = []
    for scale in (1.0, 2.0):
        stage = PooledStage("covariance")
        stage.add(scale * values, torch.ones(500))
        vectors.append(stage.vector())
    assert len(vectors[0]) == 64 * 65 // 2
    np.testing.assert_allclose(4 * vectors[0], vectors[1], rtol=1e-4, atol=1e-5)
    centred = (values - values.mean(1, keepdim=True)).double()
    norm = float((centred @ centred.T / 500).norm())
    assert 0.5 * norm < np.linalg.norm(vectors[0]) < norm


def test_windows_cover_the_image_with_as_few_as_needed() -> None:
    image, weights = torch.rand(1, 9, 4, 3), torch.rand(9, 4, 3)
    parts = list(windows_of(image, weights, (4, 4, 4)))
    assert len(parts) == 3 and all(part.shape == (1, 4, 4, 4) for part, _ in parts)
    assert sum(float(weight.sum()) for _, weight in parts) == pytest.approx(float(weights.sum()), rel=1e-5)


@pytest.mark.parametrize("text", ["5", "1,1", "first", "-1", ""])
def test_unknown_stages_are_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="names no stages of this encoder: give last, all"):
        stages_of(text, 4)


def test_an_empty_image_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no voxel counts"):
        pool_image(VIEW, torch.ones(2, 4, 4, 4), torch.zeros(4, 4, 4), window=(4, 4, 4), stages=[1], poolings=["mean"])
