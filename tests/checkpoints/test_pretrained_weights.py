import logging
from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.attention_windows import relative_position_index
from bdfm_nnunet.networks.encoders import image_kernels
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from tests.networks.zoo import NETWORKS, PRIMUS, network


def _pretrained(
    tmp_path: Path, kind: str, channels: int, prefix: str = "", **changes: object
) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(1)
    objective = MaskedImageModelling(encoder_of(network(kind, channels, **changes)))
    weights = {prefix + name: value for name, value in objective.state_dict().items()}
    torch.save({"network_weights": weights, "trainer_name": "nnUNetTrainerBDFMPretrain"}, tmp_path / "a.pth")
    return tmp_path / "a.pth", objective.encoder


_CHANNELS = [(1, 1), (1, 4), (4, 4), (4, 1)]
# the stem of its third version takes seconds
_INTO_PRIMUS_V3 = [
    pytest.param("primus_v3", old, new, marks=() if (old, new) == (1, 4) else pytest.mark.slow)
    for old, new in _CHANNELS
]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [(kind, *channels) for kind in (*NETWORKS, *PRIMUS[:2]) for channels in _CHANNELS] + _INTO_PRIMUS_V3,
)
def test_pretrained_encoder_into_every_network(tmp_path: Path, kind: str, old: int, new: int) -> None:
    path, encoder = _pretrained(tmp_path, kind, old)
    torch.manual_seed(2)
    target = network(kind, new)
    report = load_pretrained(target, path)
    assert report.encoder_share == 1
    assert len(report.adapted) == (old != new) * len(image_kernels(target.encoder))
    assert all(name.startswith("encoder.") for name in [*report.loaded, *report.adapted])
    assert not any(name.startswith("encoder.") for name in report.new)
    image = torch.randn(1, 1, 32, 32, 32)
    encoder.eval(), target.eval()
    before = encoder(image.expand(-1, old, -1, -1, -1))
    after = target.encoder(image.expand(-1, new, -1, -1, -1))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_weights_and_wrapped_networks(tmp_path: Path, prefix: str) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1, prefix)
    assert load_pretrained(torch.compile(network("swin", 4)), path).encoder_share == 1


def test_report_accounts_for_every_tensor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1)
    target = network("swin", 4)
    with caplog.at_level(logging.INFO):
        report = load_pretrained(target, path)
    assert set(report.loaded) | set(report.adapted) | set(report.new) == {n for n, _ in target.named_parameters()}
    saved = torch.load(path, weights_only=True)["network_weights"]
    assert set(report.loaded) | set(report.adapted) | set(report.ignored) == set(saved)
    assert "mask_token.value" in report.ignored
    assert report.adapted == {"encoder.patch_embed.weight": "input channels 1 to 4"}
    assert "a segmentation head belongs to its task" in report.new.values()
    assert str(report) in caplog.text and "100.0% of the encoder" in str(report)
    assert report.sha256 == sha256_of(path)


def test_another_window(tmp_path: Path) -> None:
    path, encoder = _pretrained(tmp_path, "swin", 1, window_size=[3, 3, 3])
    target = network("swin", 1, window_size=[4, 4, 4])
    report = load_pretrained(target, path)
    tables = [name for name in report.adapted if name.endswith("bias_table")]
    assert len(tables) == 4 and report.adapted[tables[0]] == "window (3, 3, 3) to (4, 4, 4)"
    attentions = [module.stages[0].blocks[0].attn for module in (target.encoder, encoder)]
    ours, theirs = (
        attention.relative_bias(relative_position_index((3, 3, 3), attention.window_size, False))
        for attention in attentions
    )
    assert torch.equal(ours, theirs)


def test_window_of_the_plans_is_believed(tmp_path: Path) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1, window_size=[2, 4, 4])
    content = torch.load(path, weights_only=True)
    architecture = {"arch_kwargs": {"window_size": [2, 4, 4]}}
    plans = {"configurations": {"c": {"architecture": architecture}}}
    torch.save(content | {"init_args": {"plans": plans, "configuration": "c"}}, path)
    report = load_pretrained(network("swin", 1), path)
    assert any(how == "window (2, 4, 4) to (4, 4, 4)" for how in report.adapted.values())


@pytest.mark.parametrize("kind", ["resenc", "plain"])
def test_kernels_of_another_size(tmp_path: Path, kind: str) -> None:
    path, _ = _pretrained(tmp_path, kind, 1, kernel_sizes=[[1, 3, 3]] + [[3, 3, 3]] * 3)
    report = load_pretrained(network(kind, 4), path)
    assert report.encoder_share == 1
    assert "input channels 1 to 4, kernel (1, 3, 3) to (3, 3, 3)" in report.adapted.values()


def test_another_patch(tmp_path: Path) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1, strides=[[1, 1, 1], [2, 4, 4], [2, 2, 2]])
    assert (
        load_pretrained(network("swin", 1), path).adapted["encoder.patch_embed.weight"]
        == "kernel (2, 4, 4) to (4, 4, 4)"
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_segmentation_checkpoint_brings_its_decoder_but_not_its_head(tmp_path: Path, kind: str) -> None:
    source = network(kind, 1, classes=3)
    torch.save({"network_weights": source.state_dict()}, tmp_path / "a.pth")
    target = network(kind, 1, classes=3)
    head = target.decoder.seg_layers[0].weight.clone()
    report = load_pretrained(target, tmp_path / "a.pth")
    assert torch.equal(
        target.decoder.stages[0].convs[0].state_dict().popitem()[1],
        source.decoder.stages[0].convs[0].state_dict().popitem()[1],
    )
    assert torch.equal(target.decoder.seg_layers[0].weight, head)
    assert all(".seg_layers." in name for name in report.new)
    assert not report.ignored or set(report.ignored.values()) == {"derived from other entries"} or kind == "swin"


@pytest.mark.parametrize(("source", "target"), [("plain", "swin"), ("swin", "resenc"), ("resenc", "swin")])
def test_another_architecture_is_refused_and_nothing_is_changed(tmp_path: Path, source: str, target: str) -> None:
    path, _ = _pretrained(tmp_path, source, 1)
    net = network(target, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match="another architecture") as caught:
        load_pretrained(net, path)
    assert str(path) in str(caught.value) and "nnUNetTrainerBDFMPretrain" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_min_match(tmp_path: Path) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1)
    wider = {"features_per_stage": [8, 16, 48]}
    with pytest.raises(InputError, match="expected at least 90%"):
        load_pretrained(network("swin", 1, **wider), path, min_match=0.9)
    report = load_pretrained(network("swin", 1, **wider), path, min_match=0.01)
    assert 0.01 < report.encoder_share < 0.9
    assert any(reason.startswith("shape") for reason in report.new.values())


def test_digest_is_held_against_the_file(tmp_path: Path) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1)
    load_pretrained(network("swin", 1), path, sha256=sha256_of(path))
    with pytest.raises(InputError, match="not the file that was planned for"):
        load_pretrained(network("swin", 1), path, sha256="0" * 64)


BATCH_NORM = {"norm_op": torch.nn.BatchNorm3d, "norm_op_kwargs": {"eps": 1e-5}}


def _segmentation(tmp_path: Path, kind: str, **changes: object) -> tuple[Path, torch.nn.Module]:
    """A network whose batch norms, if any, have seen images far from zero."""
    torch.manual_seed(3)
    source = network(kind, 1, **changes)
    source.train()
    with torch.no_grad():
        for _ in range(5):
            source(3 + 2 * torch.randn(2, 1, 32, 32, 32))
    torch.save({"network_weights": source.state_dict()}, tmp_path / "a.pth")
    return tmp_path / "a.pth", source.eval()


@pytest.mark.parametrize("kind", ["resenc", "plain"])
def test_statistics_of_batch_norms_are_loaded_and_counted(tmp_path: Path, kind: str) -> None:
    path, source = _segmentation(tmp_path, kind, **BATCH_NORM)
    target = network(kind, 1, **BATCH_NORM).eval()
    report = load_pretrained(target, path)
    image = 3 + 2 * torch.randn(1, 1, 32, 32, 32)
    for ours, theirs in zip(target.encoder(image), source.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs)
    statistics = [name for name in report.loaded if name.endswith(("running_mean", "running_var", "batches_tracked"))]
    assert len(statistics) == report.buffers == len(dict(target.named_buffers()))
    assert f"of which {report.buffers} are buffers" in str(report)


def test_missing_and_superfluous_statistics_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    path, _ = _segmentation(tmp_path, "plain")  # instance norm: the same names, without statistics
    report = load_pretrained(network("plain", 1, **BATCH_NORM), path, allow_other_function=True)
    assert any(name.endswith("running_mean") for name in report.new) and report.buffers == 0
    assert "norm is without statistics in the checkpoint, batch norm, which needs them here" in str(report)
    path, _ = _segmentation(tmp_path, "plain", **BATCH_NORM)
    report = load_pretrained(network("plain", 1), path, allow_other_function=True)
    assert any("batch norm, which this network does not have" in reason for reason in report.ignored.values())


def test_a_mask_token_that_was_set_stays_set(tmp_path: Path) -> None:
    """Its state is a buffer: left behind, the first batch would set the loaded token anew."""
    source = MaskedImageModelling(encoder_of(network("swin", 1)))
    source(torch.randn(2, 1, 32, 32, 32))
    torch.save({"network_weights": source.state_dict()}, tmp_path / "a.pth")
    target = MaskedImageModelling(encoder_of(network("swin", 1)))
    load_pretrained(target, tmp_path / "a.pth")
    target(5 + torch.randn(2, 1, 32, 32, 32))
    assert torch.equal(target.mask_token.value, source.mask_token.value)


@pytest.mark.parametrize(
    "plans",
    [
        {"configurations": [1]},
        {"configurations": {"c": 5}},
        {"configurations": {"c": {"architecture": [1]}}},
        {"configurations": {"c": {"architecture": {"arch_kwargs": "x"}}}},
        {"configurations": {"c": {"architecture": {"arch_kwargs": {"window_size": 7}}}}},
        {"configurations": {"c": {"inherits_from": "c"}}},
        {},
        5,
    ],
)
def test_plans_of_an_odd_kind_are_passed_over(tmp_path: Path, plans: object) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"init_args": {"plans": plans, "configuration": "c"}}, path)
    assert load_pretrained(network("swin", 1), path).encoder_share == 1


def test_window_of_a_variant_is_believed(tmp_path: Path) -> None:
    path, _ = _pretrained(tmp_path, "swin", 1, window_size=[2, 4, 4])
    base = {"architecture": {"arch_kwargs": {"window_size": [2, 4, 4]}}}
    plans = {"configurations": {"base": base, "c": {"inherits_from": "base"}}}
    content = torch.load(path, weights_only=True)
    torch.save(content | {"init_args": {"plans": plans, "configuration": "c"}}, path)
    assert "window (2, 4, 4) to (4, 4, 4)" in load_pretrained(network("swin", 1), path).adapted.values()


def test_a_refused_file_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    """The last tensor is bad, so half of the network would have been written before."""
    path, _ = _pretrained(tmp_path, "swin", 1)
    weights = torch.load(path, weights_only=True)["network_weights"]
    last = [name for name in weights if name.startswith("encoder.")][-1]
    net = network("swin", 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for bad in (weights[last].to_sparse(), weights[last] * float("nan"), weights[last].to(torch.int8)):
        torch.save({"network_weights": weights | {last: bad}}, path)
        with pytest.raises(InputError, match=r"a\.pth"):
            load_pretrained(net, path)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_values_that_adapting_would_lose(tmp_path: Path) -> None:
    """In half precision the sum over channels would be infinite, and a kernel without channels has no mean."""
    path, encoder = _pretrained(tmp_path, "swin", 4)
    weights = torch.load(path, weights_only=True)["network_weights"]
    name = "encoder.patch_embed.weight"
    large = torch.full_like(weights[name], 60_000).half()
    torch.save({"network_weights": weights | {name: large}}, path)
    target = network("swin", 1)
    load_pretrained(target, path)
    assert torch.equal(target.encoder.patch_embed.weight, torch.full((16, 1, 4, 4, 4), 240_000.0))
    torch.save({"network_weights": weights | {name: torch.full_like(weights[name], 3e38)}}, path)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InputError, match="too large to be adapted"):
        load_pretrained(target, path)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    torch.save({"network_weights": weights | {name: weights[name][:, :0]}}, path)
    with pytest.raises(InputError, match=f"leaves {name} new"):
        load_pretrained(target, path)
    assert name in load_pretrained(target, path, allow_gaps=True).new


@pytest.mark.parametrize(
    ("claimed", "table"),
    [
        ([4, 4, 4], "window (4, 4, 4) to (2, 2, 2)"),
        ([4, 25], "shape (343, 2) in the checkpoint, (27, 2) here"),  # as long a table as that of (4, 4, 4): 7 * 49
        ([343], "shape (343, 2) in the checkpoint, (27, 2) here"),
    ],
)
def test_a_window_of_other_axes_is_passed_over(claimed: list[int], table: str, tmp_path: Path) -> None:
    """Tables that could be adapted by a window of three axes are left new, and the rest comes over all the same."""
    path, encoder = _pretrained(tmp_path, "swin", 1)
    content = torch.load(path, weights_only=True)
    plans = {"configurations": {"c": {"architecture": {"arch_kwargs": {"window_size": claimed}}}}}
    torch.save(content | {"init_args": {"plans": plans, "configuration": "c"}}, path)
    name = "encoder.stages.0.blocks.0.attn.relative_position_bias_table"
    smaller = network("swin", 1, window_size=[2, 2, 2])
    if len(claimed) != 3:
        with pytest.raises(InputError, match=r"bias_table new \(shape \(343, 2\) .* in front of"):
            load_pretrained(smaller, path)
    other = load_pretrained(smaller, path, allow_gaps=True)
    assert (other.adapted if len(claimed) == 3 else other.new)[name] == table
    assert "encoder.stages.0.blocks.0.attn.qkv.weight" in other.loaded
    alike = network("swin", 1)
    report = load_pretrained(alike, path)
    assert name in report.loaded and report.encoder_share == 1
    assert torch.equal(alike.state_dict()[name], encoder.state_dict()[name.removeprefix("encoder.")])


def test_the_same_weights_twice_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="with and without prefixes"):
        load_pretrained(network("swin", 1), tmp_path / "a.pth")
