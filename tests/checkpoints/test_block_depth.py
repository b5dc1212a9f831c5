"""Networks with more blocks than the checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.checkpoints.block_depth import changes_grid, extra_blocks, identity_ends
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from tests.checkpoints.described import network_of

DEEPER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "swin": ({"depths": [2, 2]}, {"depths": [2, 4]}),
    "resenc": ({"nonlin": nn.ReLU}, {"nonlin": nn.ReLU, "n_blocks_per_stage": [1, 2, 2, 3]}),
}


def _saved(tmp_path: Path, kind: str, changes: dict[str, Any]) -> tuple[Path, nn.Module]:
    torch.manual_seed(1)
    source = network_of(kind, 1, **changes)
    torch.save({"state_dict": encoder_of(source).module.state_dict(prefix="encoder.")}, tmp_path / "a.pth")
    return tmp_path / "a.pth", source.eval()


@pytest.mark.parametrize("kind", DEEPER)
def test_new_residual_blocks_start_as_the_identity(tmp_path: Path, kind: str) -> None:
    before, after = DEEPER[kind]
    path, source = _saved(tmp_path, kind, before)
    torch.manual_seed(2)
    target = network_of(kind, 1, **after).eval()
    report = load_pretrained(target, path)
    image = torch.randn(1, 1, 32, 32, 32)
    for ours, theirs in zip(target.encoder(image), source.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert any("starts as the identity" in how for how in report.adapted.values())
    assert 0.5 < report.encoder_share < 1 and not report.behind


@pytest.mark.parametrize("kind", [*DEEPER, "plain"])
def test_copied_blocks_are_those_before_them(tmp_path: Path, kind: str) -> None:
    deeper = {"n_conv_per_stage": [2, 3, 2, 4]}
    before, after = (
        DEEPER["swin"] if kind == "swin" else ({}, deeper if kind == "plain" else {"n_blocks_per_stage": [1, 1, 3, 4]})
    )
    path, _ = _saved(tmp_path, kind, before)
    target = network_of(kind, 1, **after)
    report = load_pretrained(target, path, depth="copied")
    assert not any("identity" in how for how in report.adapted.values())
    weights = target.state_dict()
    copies = {name: how.removeprefix("copied from ") for name, how in report.adapted.items() if "copied" in how}
    assert report.encoder_share == 1 and copies
    blocks = {how: name for name, how in copies.items()}
    if kind == "swin":  # windows shift in every second block
        assert set(blocks) == {"encoder.stages.1.blocks.0", "encoder.stages.1.blocks.1"}
        equal = ("encoder.stages.1.blocks.2.attn.qkv.weight", "encoder.stages.1.blocks.0.attn.qkv.weight")
        assert torch.equal(weights[equal[0]], weights[equal[1]])
    else:
        for name, how in copies.items():
            block = ".".join(name.split(".")[: how.count(".") + 1])
            assert torch.equal(weights[name], weights[how + name.removeprefix(block)])


def test_plain_blocks_have_no_identity_and_are_refused(tmp_path: Path) -> None:
    path, _ = _saved(tmp_path, "plain", {})
    with pytest.raises(InputError, match=r"leaves encoder\.stages\.1\.0\.convs\.2\.conv\.weight new"):
        load_pretrained(network_of("plain", 1, n_conv_per_stage=[2, 3, 2, 2]), path)


def test_another_stage_is_no_further_block() -> None:
    net = network_of("plain", 1)
    known = {name: value for name, value in net.state_dict().items() if ".stages.3." not in name}
    assert not list(extra_blocks(net, known))
    assert changes_grid(net.encoder.stages[3]) and not changes_grid(net.encoder.stages[0])


def test_shortcuts_that_project_have_no_identity() -> None:
    net = network_of("resnet18", 1)
    assert identity_ends(net.encoder.layer2[1]) == ["bn2.weight", "bn2.bias"]
    assert identity_ends(net.encoder.layer2[0]) == []
