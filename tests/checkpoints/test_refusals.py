"""What once went wrong in silence: each file here loaded, and gave other features than its own network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.checkpoints.readers import Origin
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.errors import InputError
from tests.checkpoints.described import checkpoint_of_network, configuration_of, network_of
from tests.networks.zoo import NETWORKS, network

BATCH_NORM = {"norm_op": nn.BatchNorm3d, "norm_op_kwargs": {"eps": 1e-5}}
Weights = dict[str, Tensor]


def _weights(kind: str, **changes: Any) -> Weights:
    torch.manual_seed(1)
    return {
        name: value
        for name, value in network(kind, 1, **changes).state_dict().items()
        if name.startswith("encoder.") and ".all_modules." not in name
    }


def _saved(tmp_path: Path, weights: Weights) -> Path:
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def _refused(target: nn.Module, path: Path, match: str, **settings: Any) -> None:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InputError, match=match) as caught:
        load_pretrained(target, path, **settings)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


FIRST = {
    "swin": "encoder.patch_embed.weight",
    "resenc": "encoder.stem.convs.0.conv.weight",
    "plain": "encoder.stages.0.0.convs.0.conv.weight",
    "resnet18": "encoder.conv1.weight",
}
MIDDLE = {
    "swin": "encoder.stages.1.merging.reduction.weight",
    "resenc": "encoder.stages.2.blocks.0.conv2.norm.weight",
    "plain": "encoder.stages.2.0.convs.1.conv.weight",
    "resnet18": "encoder.layer3.0.downsample.0.weight",
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("missing", [FIRST, MIDDLE], ids=["stem", "gap"])
def test_nothing_new_in_front_of_something_loaded(tmp_path: Path, kind: str, missing: dict[str, str]) -> None:
    """Counted by parameters next to everything fits; the features would have nothing in common with the file's."""
    weights = _weights(kind)
    del weights[missing[kind]]
    path = _saved(tmp_path, weights)
    _refused(network(kind, 1), path, f"leaves {missing[kind]} new .* in front of .*allow_gaps")
    report = load_pretrained(network(kind, 1), path, allow_gaps=True)
    names = [name for name, _ in network(kind, 1).named_parameters() if name.startswith("encoder.")]
    assert report.behind == names[names.index(missing[kind]) + 1 :]
    assert "behind a gap, as asked for" in str(report)


@pytest.mark.parametrize(
    ("kind", "deep", "flat"),
    [
        ("swin", {"depths": [6, 2]}, {"depths": [2, 2]}),
        ("plain", {"n_conv_per_stage": [2, 6, 2, 2]}, {}),
        ("resenc", {"n_blocks_per_stage": [1, 4, 2, 2]}, {}),
    ],
)
def test_blocks_cut_out_of_the_middle(tmp_path: Path, kind: str, deep: dict[str, Any], flat: dict[str, Any]) -> None:
    path = _saved(tmp_path, _deep(kind, deep))
    _refused(network(kind, 1, **flat), path, "without a place in this .* in front of .*allow_gaps")
    report = load_pretrained(network(kind, 1, **flat), path, allow_gaps=True, min_source_match=0.1)
    assert report.encoder_share == 1 and report.source_share < 1 and report.behind


def _deep(kind: str, changes: dict[str, Any]) -> Weights:
    whole = network_of(kind, 1, **changes).state_dict()
    return {name: value for name, value in whole.items() if name.startswith("encoder.") and ".all_" not in name}


def test_six_blocks_at_the_end_into_two(tmp_path: Path) -> None:
    """All of the network's encoder is filled, and most of the file's is left out."""
    path = _saved(tmp_path, _weights("swin", depths=[2, 18]))
    target = network("swin", 1, depths=[2, 2])
    for name in ("norm.weight", "norm.bias"):  # not in the way
        weights = torch.load(path, weights_only=True)["state_dict"]
        weights.pop(f"encoder.{name}")
        torch.save({"state_dict": weights}, path)
    _refused(target, path, "finds a place in this SwinUNet, expected at least 50%")
    report = load_pretrained(target, path, min_source_match=0.1)
    assert 0.1 < report.source_share < 0.5


def test_statistics_of_batch_norms_that_were_dropped(tmp_path: Path) -> None:
    weights = {name: value for name, value in _weights("plain", **BATCH_NORM).items() if "running" not in name}
    _refused(network("plain", 1, **BATCH_NORM), _saved(tmp_path, weights), "norm is without statistics")


def test_batch_norm_into_instance_norm_without_plans(tmp_path: Path) -> None:
    path = _saved(tmp_path, _weights("plain", **BATCH_NORM))
    _refused(network("plain", 1), path, "norm is batch norm .* instance norm here .*allow_other_function")
    report = load_pretrained(network("plain", 1), path, allow_other_function=True)
    assert any("batch norm" in each for each in report.differences) and "differs: norm is batch norm" in str(report)
    assert any("batch norm, which this network does not have" in reason for reason in report.ignored.values())


@pytest.mark.parametrize(
    ("theirs", "ours", "match"),
    [
        (BATCH_NORM, {}, "norm is batch norm in the checkpoint, instance norm here"),
        ({"nonlin": nn.ReLU}, {}, r"activation is ReLU in the checkpoint, LeakyReLU\(negative_slope=0.01\) here"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, {}, r"negative_slope=0.2\) in the checkpoint"),
        ({"nonlin": nn.GELU, "nonlin_kwargs": {}}, {}, r"activation is GELU\(approximate=none\)"),
    ],
)
def test_another_function_by_the_plans_in_the_file(
    tmp_path: Path, theirs: dict[str, Any], ours: dict[str, Any], match: str
) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1, **theirs)
    _refused(network("plain", 1, **ours), path, match)


@pytest.mark.parametrize("with_plans", [True, False])
def test_another_number_of_heads(tmp_path: Path, with_plans: bool) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 1, num_heads=[4, 4], plans=with_plans)
    _refused(network("swin", 1), path, "heads is 4 in the checkpoint, 2 here")


def test_heads_without_tables_that_would_tell(tmp_path: Path) -> None:
    """Only the plans tell: the tables have the names of a network without them."""
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 1, num_heads=[4, 4])
    content = torch.load(path, weights_only=False)
    tables = [name for name in content["network_weights"] if name.endswith("bias_table")]
    ours = network("swin", 1).state_dict()
    content["network_weights"] |= {name: ours[name] for name in tables}
    torch.save(content, path)
    _refused(network("swin", 1), path, "heads is 4 in the checkpoint, 2 here")


@pytest.mark.parametrize("kind", ["swin", "plain"])
def test_a_flat_network_into_one_of_three_axes(tmp_path: Path, kind: str) -> None:
    weights = _weights(kind)
    flat: Callable[[Tensor], Tensor] = lambda value: value.mean(2) if value.ndim == 5 else value  # noqa: E731
    path = _saved(tmp_path, {name: flat(value) for name, value in weights.items()})
    _refused(network(kind, 1), path, f"is of a 2-D network .* this {type(network(kind, 1)).__name__} is 3-D")


def test_swin_v2_into_v1(tmp_path: Path) -> None:
    weights = _weights("swin")
    for name in [name for name in weights if name.endswith("relative_position_bias_table")]:
        attention, heads = name.rpartition(".")[0], weights.pop(name).shape[1]
        weights[f"{attention}.logit_scale"] = torch.ones(heads, 1, 1)
        weights[f"{attention}.cpb_mlp.0.weight"] = torch.ones(512, 3)
    _refused(network("swin", 1), _saved(tmp_path, weights), r"Swin (transformer )?V2")


def test_strides_and_legacy_attention_are_a_matter_of_degree(tmp_path: Path) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1, strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]])
    report = load_pretrained(network("plain", 1), path)
    assert report.differences[0].startswith("stride is (2, 2, 2) in the checkpoint, (1, 2, 2) here")
    path = checkpoint_of_network(tmp_path / "b.pth", "swin", 1, legacy=True)
    report = load_pretrained(network("swin", 1), path)
    assert report.differences[0].startswith("legacy attention is True in the checkpoint, False here")


def test_what_the_file_does_not_say_is_told(tmp_path: Path) -> None:
    report = load_pretrained(network("plain", 1), _saved(tmp_path, _weights("plain")))
    assert report.assumed[0].startswith("the file does not say its stride, norm, activation: taken to be those of this")
    assert "instance norm; LeakyReLU(negative_slope=0.01)" in str(report)
    path = checkpoint_of_network(tmp_path / "b.pth", "plain", 1)
    assert load_pretrained(network("plain", 1), path).assumed == ()


def test_configurations_of_these_tests_build_the_same_networks() -> None:
    from bdfm_nnunet.networks.network_building import build_network

    for kind in NETWORKS:
        built = build_network(configuration_of(kind), inputs=1, outputs=3, deep_supervision=False)
        expected = {name: value.shape for name, value in network(kind, 1).state_dict().items()}
        assert {name: value.shape for name, value in built.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("known", "match"),
    [
        ({"norm": "batch"}, "norm is batch norm in the checkpoint, instance norm here"),
        ({"activation": "ReLU"}, "activation is ReLU in the checkpoint, LeakyReLU"),
    ],
)
def test_what_a_reader_knows_of_a_network_that_it_cannot_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], match: str
) -> None:
    origin = Origin(source_network=SourceNetwork(**known))
    monkeypatch.setattr("bdfm_nnunet.checkpoints.readers.plain_reader.PlainReader.origin", lambda *_: origin)
    path = _saved(tmp_path, _weights("plain"))
    _refused(network("plain", 1), path, match)
    report = load_pretrained(network("plain", 1), path, allow_other_function=True)
    assert not any(next(iter(known)) in each for each in report.assumed)


def test_second_stages_of_cascades(tmp_path: Path) -> None:
    source = network("plain", 3)
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans = {"configurations": {"3d_cascade_fullres": cascade, "3d_fullres": {}}}
    content = {"network_weights": source.state_dict(), "trainer_name": "nnUNetTrainer"}
    for name in plans["configurations"]:
        torch.save(content | {"init_args": {"plans": plans, "configuration": name}}, tmp_path / f"{name}.pth")
    reason = "second stage of a cascade, which reads the segmentations of 3d_lowres too: give the checkpoint of 3d_full"
    _refused(network("plain", 1), tmp_path / "3d_cascade_fullres.pth", reason)
    assert load_pretrained(network("plain", 1), tmp_path / "3d_fullres.pth").encoder_share == 1
