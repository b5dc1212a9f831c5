"""Learning rates by depth, for every encoder."""

from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.networks import NeurostormEncoder, encoder_of
from bdfm_nnunet.networks.encoder_depth import encoder_layers
from bdfm_nnunet.networks.mamba_stages import MambaBlock
from bdfm_nnunet.networks.subject_network import SubjectNetwork
from bdfm_nnunet.settings import FinetuningSettings
from bdfm_nnunet.training.optimizers import parameter_groups
from bdfm_nnunet.training.trained_parts import LoadedParts, moving, rated_parts
from tests.networks.zoo import NETWORKS, network

KINDS = (*NETWORKS, "primus")


def _rates(kind: str, **settings: float) -> dict[str, float]:
    """Rate of each parameter, by its name."""
    net = network(kind, 1)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    parts = rated_parts(net, FinetuningSettings(**settings), rate=1.0, loaded=LoadedParts())  # type: ignore[arg-type]
    groups = parameter_groups(parts, weight_decay=0.1)
    found = [(names[id(each)], group["peak_lr"]) for group in groups for each in group["params"]]  # type: ignore
    assert len(found) == len(names)
    return dict(found)


DEPTHS = {
    "swin": {
        "stem.convs.0.0.weight": 5,
        "encoder.patch_embed.weight": 5,
        "encoder.stages.0.blocks.0.attn.qkv.weight": 4,
        "encoder.stages.0.blocks.1.mlp.0.weight": 3,
        "encoder.stages.1.merging.reduction.weight": 3,
        "encoder.stages.1.blocks.0.attn.relative_position_bias_table": 2,
        "encoder.stages.1.blocks.1.norm2.bias": 1,
        "encoder.norm.weight": 0,
    },
    "resenc": {
        "encoder.stem.convs.0.conv.weight": 5,
        "encoder.stages.0.blocks.0.conv1.conv.weight": 4,
        "encoder.stages.2.blocks.1.conv2.conv.weight": 2,
        "encoder.stages.3.blocks.0.conv1.norm.weight": 1,
    },
    "primus": {
        "encoder.down_projection.proj.weight": 3, "encoder.eva.pos_embed": 3, "encoder.eva.blocks.0.norm1.weight": 2,
        "encoder.eva.blocks.1.attn.proj.weight": 1, "encoder.eva.norm.bias": 0,
    },
    "plain": {"encoder.stages.0.0.convs.0.conv.weight": 4, "encoder.stages.3.0.convs.1.conv.bias": 1},
    "resnet18": {
        "encoder.conv1.weight": 5, "encoder.bn1.bias": 5, "encoder.layer1.0.conv1.weight": 4,
        "encoder.layer4.0.downsample.0.weight": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rates_fall_from_layer_to_layer_towards_the_image(kind: str) -> None:
    rates = _rates(kind, layer_decay=0.75, encoder_lr_factor=0.5)
    for name, depth in DEPTHS[kind].items():
        assert rates[name] == pytest.approx(0.5 * 0.75**depth), name
    assert {rate for name, rate in rates.items() if name.startswith("decoder.") and ".encoder." not in name} == {1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_an_encoder_is_in_one_layer(kind: str) -> None:
    view = encoder_of(network(kind, 1))
    members = [id(parameter) for layer in encoder_layers(view) for parameter in layer]
    assert len(members) == len(set(members)) and set(members) == {id(each) for each in view.module.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_without_factors_there_are_the_groups_that_checkpoints_of_before_have(kind: str) -> None:
    parts = rated_parts(network(kind, 1), FinetuningSettings(), rate=1.0, loaded=LoadedParts())
    assert list(parts) == ["encoder", "rest"]


NORMS = 4 * (2 * 36 + 2 * 72 + 6 * 144 + 2 * 288) + 2 * 8 * (36 + 72 + 144)
"""Numbers of the norms of the published blocks and mergings."""


@pytest.mark.parametrize(
    ("moves", "trained"),
    [("prompts", 82_800 + 289), ("rest", 289), ("norms", 289 + NORMS), ("prompts and norms", 83_089 + NORMS)],
)
def test_shares_of_the_published_encoder_that_train(moves: Any, trained: int) -> None:
    """With one logit and 50 prompts a block, 1.58 % train; no tensor of that size is made."""
    with torch.device("meta"):
        network = SubjectNetwork(encoder_of(NeurostormEncoder(1)), 1, head="v1")
    for block in (each for each in network.modules() if isinstance(each, MambaBlock)):
        block.prompt = nn.Parameter(torch.empty(50, block.channels, device="meta"))
    chosen = moving(network, moves, LoadedParts(weights=True))
    counts = [(each.numel(), id(each) in chosen) for each in network.parameters()]
    every = sum(count for count, _ in counts)
    assert every == 5_173_020 + 82_800 + 289
    assert sum(count for count, moves_too in counts if moves_too) == trained
    assert moves != "prompts" or f"{trained / every:.2%}" == "1.58%"
