"""Shares of regions, and outputs that start at them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import SwinUNet
from bdfm_nnunet.tasks.output_prior import region_shares, start_at_shares


def _network() -> tuple[SwinUNet, list[Any]]:
    """A network and its layers of outputs."""
    network = SwinUNet(
        1, 3, strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]], features_per_stage=[4, 8, 16], depths=[1, 1],
        num_heads=[1, 2], window_size=[2, 2, 2], deep_supervision=True,
    )  # fmt: skip
    layers: Any = network.decoder.seg_layers
    return network, list(layers)


def test_air_is_background_and_ignored_voxels_do_not_count() -> None:
    maps = [np.array([[-1, 0, 0, 1], [2, 2, 9, 9]]), np.full((2, 2), -1, np.int8)]
    assert region_shares(maps, [0, 1, 2], ignore=9) == pytest.approx([0.7, 0.1, 0.2])
    assert region_shares(maps, [(1, 2), (9,)]) == pytest.approx([3 / 12, 2 / 12])


def test_classes_get_their_shares_by_softmax() -> None:
    network, layers = _network()
    for layer in layers:
        nn.init.zeros_(layer.weight)
    start_at_shares(network, [0.9, 0.08, 0.02], sigmoid=False)
    for output in network.eval()(torch.randn(1, 1, 16, 16, 16)):
        assert output.softmax(1).mean(dim=(0, 2, 3, 4)).tolist() == pytest.approx([0.9, 0.08, 0.02], rel=1e-4)


def test_a_region_that_no_case_shows_can_still_be_learnt() -> None:
    network, layers = _network()
    start_at_shares(network, [0.0, 1.0, 0.5], sigmoid=True)
    assert layers[0].bias.sigmoid().tolist() == pytest.approx([1e-4, 1 - 1e-4, 0.5], rel=1e-3)


def test_what_cannot_be_set_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="leave the setting out"):
        start_at_shares(nn.Conv3d(1, 2, 1), [0.5, 0.5], sigmoid=True)
    with pytest.raises(InputError, match="no labelled voxel"):
        region_shares([np.full((2, 2), 9)], [1], ignore=9)
