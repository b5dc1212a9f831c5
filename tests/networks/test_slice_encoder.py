from typing import Any

import numpy as np
import pytest
import torch
from skimage.filters import frangi
from torch import nn

from bdfm_nnunet.networks.slice_encoder import SliceEncoder, edges_of

VOLUMES = torch.randn(2, 1, 3, 10, 12, generator=torch.Generator().manual_seed(0)).cumsum(3)


class Recording(nn.Module):
    """An encoder that returns its images and counts its calls."""

    size = 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return images * self.scale


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_is_an_image_of_its_own(axis: int) -> None:
    encoder = SliceEncoder(Recording(), axis=axis, slices_at_once=4)
    features = encoder(VOLUMES)
    count = VOLUMES.shape[2 + axis]
    assert features.shape == (2, count, 4, 12, 12)
    assert encoder.encoder.batches == [4] * (2 * count // 4) + [2 * count % 4] * bool(2 * count % 4)
    for sample in range(2):
        for number in (0, count - 1):
            image = VOLUMES[sample, 0].select(axis, number)
            scaled = (image - image.min()) / (image.max() - image.min())
            resized = nn.functional.interpolate(scaled[None, None], (12, 12), mode="bilinear", antialias=True)[0, 0]
            for channel in range(3):
                torch.testing.assert_close(features[sample, number, channel], resized)
            expected = torch.from_numpy(frangi(resized.double().numpy(), sigmas=(0.5, 1, 1.5))).float()
            torch.testing.assert_close(features[sample, number, 3], expected)
    torch.testing.assert_close(encoder.pooled(VOLUMES), features.mean((3, 4)))


def test_it_stays_frozen_and_in_eval_mode() -> None:
    encoder = SliceEncoder(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(0.9)), edges=False)
    encoder.encoder.size = 8
    assert not encoder.training
    encoder.train()
    assert not encoder.encoder[1].training and not encoder.encoder[0].weight.requires_grad
    volumes = torch.rand(1, 1, 2, 8, 8, requires_grad=True)
    first = encoder(volumes)
    assert torch.equal(first, encoder(volumes)) and not first.requires_grad


def test_constant_slices_are_black() -> None:
    features = SliceEncoder(Recording())(torch.full((1, 1, 2, 9, 9), 7.0))
    assert torch.equal(features, torch.zeros_like(features))


def test_edges_are_dark_ridges() -> None:
    images = np.ones((2, 1, 24, 24))
    images[0, 0, 12] = 0
    edges = edges_of(torch.from_numpy(images).float())
    assert edges[0, 0, 12, 5] > 0.5 and edges[0, 0, 3].max() < 1e-3 and edges[1].abs().max() < 1e-6


@pytest.mark.parametrize(("shape", "axis"), [((1, 2, 3, 8, 8), 0), ((1, 1, 8, 8), 0), ((1, 1, 3, 8, 8), 3)])
def test_other_volumes_are_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 1, \*three axes\)"):
        SliceEncoder(Recording(), axis=axis)(torch.zeros(shape))


def test_slices_at_once_are_at_least_one() -> None:
    module: Any = Recording()
    with pytest.raises(ValueError, match="expected 1 or more"):
        SliceEncoder(module, slices_at_once=0)
