"""Differences that concern several tensors at once: features stay the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.checkpoints.token_adapting import adapt_positions
from tests.checkpoints.described import checkpoint_of_network, network_of
from tests.networks import zoo

BATCH_NORM = {"norm_op": nn.BatchNorm3d, "norm_op_kwargs": {"eps": 1e-5}}


def _source(tmp_path: Path, kind: str, **changes: Any) -> tuple[Path, nn.Module]:
    path = checkpoint_of_network(tmp_path / "a.pth", kind, 1, **changes)
    content = torch.load(path, weights_only=True)
    source = network_of(kind, 1, **changes)
    random = torch.Generator().manual_seed(3)
    for name, value in content["network_weights"].items():
        if name.endswith((".bias", "running_mean")):
            value += 0.3 * torch.randn(value.shape, generator=random)
    torch.save(content, path)
    source.load_state_dict(content["network_weights"])
    return path, source.eval()


def _alike(source: nn.Module, target: nn.Module) -> None:
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(4))
    for ours, theirs in zip(target.eval().encoder(image), source.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_convolutions_without_biases_into_such_with(tmp_path: Path) -> None:
    path, source = _source(tmp_path, "plain", conv_bias=False)
    target = network_of("plain", 1)
    report = load_pretrained(target, path)
    assert report.adapted["encoder.stages.0.0.convs.0.conv.bias"] == "zero: the checkpoint has none"
    _alike(source, target)


@pytest.mark.parametrize(("norm", "how"), [({}, "changes nothing"), (BATCH_NORM, "taken into")])
def test_biases_in_front_of_norms_into_convolutions_without(tmp_path: Path, norm: dict[str, Any], how: str) -> None:
    path, source = _source(tmp_path, "plain", **norm)
    target = network_of("plain", 1, conv_bias=False, **norm)
    report = load_pretrained(target, path)
    assert how in report.ignored["encoder.stages.0.0.convs.0.conv.bias"]
    _alike(source, target)


@pytest.mark.parametrize("with_plans", [True, False])
def test_merging_of_fewer_tokens(tmp_path: Path, with_plans: bool) -> None:
    strides = [[1, 1, 1], [4, 4, 4], [1, 2, 2]]
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 1, plans=with_plans, strides=strides)
    report = load_pretrained(network_of("swin", 1), path)
    assert report.adapted["encoder.stages.1.merging.reduction.weight"] == "merging (1, 2, 2) to (2, 2, 2)"
    assert report.encoder_share == report.source_share == 1


def test_channels_by_name(tmp_path: Path) -> None:
    names = {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}}
    path = checkpoint_of_network(tmp_path / "a.pth", "resenc", 3, dataset=names)
    source = network_of("resenc", 3)
    source.load_state_dict(torch.load(path, weights_only=True)["network_weights"])
    target = network_of("resenc", 4)
    report = load_pretrained(target, path, channels=["t1c", "t2f", "t1n", "t2w"])
    how = report.adapted["encoder.stem.convs.0.conv.weight"]
    assert how == "input channels T1, T2, FLAIR to t1c, t2f, t1n, t2w by name; t1c start at zero"
    images = torch.randn(1, 4, 32, 32, 32, generator=torch.Generator().manual_seed(5))
    for ours, theirs in zip(target.encoder(images), source.encoder(images[:, [2, 3, 1]]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_channels_in_another_order(tmp_path: Path) -> None:
    """As many channels, so that nothing but the names tells."""
    names = {"channel_names": {"0": "T1", "1": "FLAIR"}}
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 2, dataset=names)
    weights = torch.load(path, weights_only=True)["network_weights"]
    target = network_of("swin", 2)
    load_pretrained(target, path, channels=["FLAIR", "T1"])
    for name in ("encoder.patch_embed.weight", "stem.convs.0.0.weight"):
        assert torch.equal(target.state_dict()[name], weights[name].flip(1))
    load_pretrained(target, path, channels=["A", "B"])
    assert torch.equal(target.state_dict()["encoder.patch_embed.weight"], weights["encoder.patch_embed.weight"])


@pytest.mark.parametrize(("policy", "same", "taken"), [
    ("none", True, False), ("same-plan", True, True), ("same-plan", False, False), ("all", False, True),
])  # fmt: skip
def test_the_decoder_comes_over_by_policy(tmp_path: Path, policy: str, same: bool, taken: bool) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    target = network_of("plain", 1, **({} if same else {"n_conv_per_stage_decoder": [2, 2, 2]}))
    report = load_pretrained(target, path, decoder=policy)
    name = "decoder.transpconvs.0.weight"
    assert (name in report.loaded) is taken and (name in report.new) is not taken
    assert report.encoder_share == 1


def test_the_decoder_of_a_training_without_labels_starts_anew(tmp_path: Path) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    content = torch.load(path, weights_only=True)
    content["network_weights"]["mask_token"] = torch.zeros(1)
    torch.save(content, path)
    report = load_pretrained(network_of("plain", 1), path)
    assert report.new["decoder.transpconvs.0.weight"].startswith("the decoder of a training without labels")
    assert "decoder.transpconvs.0.weight" in load_pretrained(network_of("plain", 1), path, decoder="all").loaded


@pytest.mark.parametrize("how", ["resample", "extend"])
def test_positions_of_a_primus_for_larger_images(tmp_path: Path, how: str) -> None:
    torch.manual_seed(1)
    torch.save({"network_weights": zoo.network("primus", 1).state_dict()}, tmp_path / "a.pth")
    target = zoo.network("primus", 1, input_shape=[48, 32, 32])
    report = load_pretrained(target, tmp_path / "a.pth", positions=how)
    assert report.adapted["encoder.eva.pos_embed"] == f"positions (4, 4, 4) to (6, 4, 4), {how}"
    assert report.encoder_share == report.source_share == 1
    before = torch.load(tmp_path / "a.pth", weights_only=True)["network_weights"]["encoder.eva.pos_embed"]
    expected = adapt_positions(before, (4, 4, 4), (6, 4, 4), how=how)
    torch.testing.assert_close(target.state_dict()["encoder.eva.pos_embed"], expected)
