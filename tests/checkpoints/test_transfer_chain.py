import re

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints.transfer_chain import Target, behind_the_end, cut_out, first_gap, share_of
from tests.networks.zoo import NETWORKS, network


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_chain_has_every_parameter_of_the_encoder_in_the_order_in_which_the_image_meets_them(kind: str) -> None:
    """Held against the order in which layers run, told by hooks."""
    net = network(kind, 1).eval()
    target, met = Target(net), []

    def note(name: str) -> None:
        met.append(name)

    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv3d, nn.Linear, nn.LayerNorm, nn.InstanceNorm3d, nn.BatchNorm3d)):
            module.register_forward_hook(lambda *_, name=name: note(name))
    with torch.no_grad():
        net.encoder(torch.zeros(1, 1, 32, 32, 32))
    assert {name for name, _ in net.named_parameters() if name.startswith("encoder.")} == set(target.encoder)
    layers = [name for name in dict.fromkeys(name.rpartition(".")[0] for name in target.encoder) if name in met]
    assert _blocks(layers) == _blocks(met) and len(_blocks(met)) > 3


def _blocks(layers: list[str]) -> list[str]:
    """The innermost numbered part of each, once; within a block, shortcut and branch run side by side."""
    return list(dict.fromkeys(re.sub(r"(.*?(?:blocks|convs|layer\d)\.\d+)\..*", r"\1", name) for name in layers))


def test_a_stem_beside_the_encoder_is_a_chain_of_its_own() -> None:
    target = Target(network("swin", 1))
    assert target.stem and not set(target.stem) & set(target.encoder)
    assert target.reading_image == ("stem.convs.0.0.weight", "encoder.patch_embed.weight")
    assert Target(network("plain", 1)).stem == ()


def test_where_a_transfer_ends() -> None:
    names, kernels = ["a.w", "a.b", "t", "b.w", "b.b", "c.w"], {"a.w", "b.w", "c.w"}
    assert behind_the_end(names, {"a.w", "a.b", "t", "b.b"}, kernels) == ("b.w", ["b.b"])
    assert behind_the_end(names, set(names), kernels) == ("", [])
    assert behind_the_end(names, {"t", "b.b"}, kernels) == ("a.w", ["t", "b.b"])
    assert behind_the_end(names, set(names) - {"a.b"}, kernels) == ("", [])  # a gap, and not the end


def test_gaps() -> None:
    assert first_gap("abcd", set("ab")) == ("", [])
    assert first_gap("abcd", set("abd")) == ("c", ["d"])
    assert first_gap("abcd", set()) == ("", [])


def test_parts_at_the_end_are_not_cut_out_of_the_middle() -> None:
    target = Target(network("plain", 1))
    deeper = ["encoder.stages.4.0.convs.0.conv.weight"]
    assert cut_out(target, deeper, target.encoder) == ([], [])
    wider = ["encoder.stages.1.0.convs.2.conv.weight"]
    lost, behind = cut_out(target, wider, target.encoder)
    assert lost == wider and behind[0] == "encoder.stages.2.0.convs.0.conv.weight"
    assert cut_out(target, wider, target.encoder[: target.encoder.index(behind[0])]) == ([], [])


def test_shares() -> None:
    assert share_of({"a": 3, "b": 1}, {"b", "c"}) == 0.25
    assert share_of({}, {"b"}) == 0
