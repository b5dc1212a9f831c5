"""PrimusNet against the classes of dynamic-network-architectures, and under nnU-Net's rules for networks."""

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures import primus as published

from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.primus import PrimusNet
from bdfm_nnunet.plans.network_names import PRIMUS_KINDS
from bdfm_nnunet.presets import PRIMUS_SIZES
from tests.networks.zoo import PRIMUS, network

SHAPE = [16, 24, 16]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_names_and_shapes_are_those_of_the_published_network(version: int) -> None:
    kind = {1: published.PrimusS, 2: published.PrimusV2S, 3: published.PrimusV3S}[version]
    channels, depth, heads = PRIMUS_SIZES["s"]
    with torch.device("meta"):
        theirs: Any = kind(2, 3, (8, 8, 8), tuple(SHAPE))
        ours = PrimusNet(
            2, 3, input_shape=SHAPE, embed_dim=channels, eva_depth=depth, eva_numheads=heads, version=version
        )
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    decoder = "up_projection."
    expected = {f"{'decoder' if name.startswith(decoder) else 'encoder'}.{name}": shapes[name] for name in shapes}
    assert {name: parameter.shape for name, parameter in ours.named_parameters()} == expected
    for key in (ours.key_to_encoder, ours.key_to_stem, *ours.keys_to_in_proj):
        ours.get_submodule(key)
    ours.get_parameter(ours.key_to_lpe)


def test_sizes_are_the_published_ones() -> None:
    known = {
        size.lower(): (kind["embed_dim"], kind["eva_depth"], kind["eva_numheads"])
        for size, kind in published._PRIMUS_CONFIGS.items()
    }
    assert known == PRIMUS_SIZES and len(PRIMUS_KINDS) == 12


@pytest.mark.parametrize("kind", PRIMUS)
def test_deep_supervision_adds_an_output_of_half_the_size(kind: str) -> None:
    net = network(kind, 1).eval()
    images = torch.randn(1, 1, 32, 32, 32)
    whole = net(images)
    net.decoder.deep_supervision = True
    full, half = net(images)
    assert torch.equal(whole, full) and half.shape == (1, 3, 16, 16, 16)
    assert torch.allclose(half[0, 0, 0, 0, 0], full[0, 0, :2, :2, :2].mean())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input_shape": [32, 32, 20]}, "input_shape is"),
        ({"input_shape": [32, 32, 0]}, "input_shape is"),
        ({"embed_dim": 28}, "embed_dim is 28, expected a multiple of 12"),
        ({"version": 4}, "version is 4"),
        ({"strides": [[1, 1, 1], [2, 2, 2], [2, 4, 4]], "version": 2}, r"tokens of \(4, 8, 8\)"),
        ({"strides": [[1, 1, 1], [8, 8, 8]]}, "must be three or more"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(changes: dict[str, Any], fault: str) -> None:
    settings: dict[str, Any] = {"input_shape": [32] * 3, "embed_dim": 24, "eva_depth": 1, "eva_numheads": 2}
    with pytest.raises(ValueError, match=fault):
        PrimusNet(1, 2, **settings | changes)


def test_tokens_of_another_size_in_version_one() -> None:
    net = network("primus", 1, strides=[[1, 1, 1], [1, 2, 2], [4, 4, 4]], input_shape=[16, 32, 32])
    assert net.encoder.strides == ((4, 8, 8),) and net(torch.zeros(1, 1, 16, 32, 32)).shape == (1, 3, 16, 32, 32)


def test_plans_can_name_it() -> None:
    architecture = {
        "network_class_name": "bdfm_nnunet.networks.primus.PrimusNet",
        "arch_kwargs": {"input_shape": SHAPE, "embed_dim": 24, "eva_depth": 1, "eva_numheads": 2},
        "_kw_requires_import": [],
    }
    built = build_network({"architecture": architecture}, inputs=2, outputs=4, deep_supervision=False)
    assert isinstance(built, PrimusNet) and built(torch.zeros(1, 2, *SHAPE)).shape == (1, 4, *SHAPE)
