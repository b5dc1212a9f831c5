"""nnssl's entry in our checkpoints, read as nnssl and nnU-Net's development branch read it."""

import json
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from torch import nn

from bdfm_nnunet.checkpoints.adaptation_plan import SHAPE, adaptation_plan, pretraining_configuration
from bdfm_nnunet.checkpoints.citations import citations_of
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from tests.networks import zoo

PLANS = {"dataset_name": "Dataset501_A", "plans_name": "P", "transpose_forward": [0, 1, 2], "configurations": {"c": {}}}
SETTINGS = {
    "data_identifier": "P_c", "preprocessor_name": "DefaultPreprocessor", "spacing": [1.0, 1.0, 1.0],
    "patch_size": [32, 32, 32], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": {"order": 3},
    "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": {"order": 1},
}  # fmt: skip
NNSSL_NETWORK = {  # fields of nnssl's DynamicArchitecturePlans, all of which it asks for
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
    "nonlin_kwargs",
}  # fmt: skip
NNSSL_CONFIGURATION = {  # fields of nnssl's ConfigurationPlan
    "data_identifier", "preprocessor_name", "spacing_style", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_mask", "resampling_fn_mask_kwargs", "spacing",
    "patch_size",
}  # fmt: skip


def _architecture(kind: str) -> dict[str, Any]:
    network = type(zoo.network(kind, 1))
    return {
        "network_class_name": f"{network.__module__}.{network.__name__}",
        "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv3d", "strides": ((1, 1, 1), (2, 2, 2))},
        "_kw_requires_import": ["conv_op"],
    }


def _pretrained(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    network = zoo.network(kind, 1)
    weights = MaskedImageModelling(encoder_of(network)).state_dict()
    settings = SETTINGS | {"architecture": _architecture(kind)}
    entry = adaptation_plan(PLANS, settings, network=network, weights=weights, channels=1)
    assert entry is not None
    return json.loads(json.dumps(entry)), weights


def _load_as_nnunet_does(network: nn.Module, entry: dict[str, Any], weights: dict[str, torch.Tensor], n: int) -> None:
    """The development branch, written down: strict loading of the encoder's and the stem's module."""
    for key_to in ("key_to_stem", "key_to_encoder"):
        ours, theirs = getattr(network, key_to), entry[key_to]
        part = {name: value for name, value in weights.items() if name.startswith(theirs)}
        for key in entry["keys_to_in_proj"] if n > entry["pretrain_num_input_channels"] else ():
            if key.startswith(theirs):
                part[f"{key}.weight"] = part[f"{key}.weight"].repeat(1, n, 1, 1, 1) / n
        module = network.get_submodule(str(ours))
        module.load_state_dict({name.replace(theirs, "").removeprefix("."): value for name, value in part.items()})


@pytest.mark.parametrize("kind", zoo.NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_others_find_encoder_and_stem_by_it(kind: str, channels: int) -> None:
    entry, weights = _pretrained(kind)
    assert fault_of(entry, SHAPE) == ""
    torch.manual_seed(2)
    source, target = zoo.network(kind, 1), zoo.network(kind, channels)
    _load_as_nnunet_does(target, entry, weights, channels)
    source.encoder.load_state_dict(
        {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    )
    image = torch.randn(1, 1, 32, 32, 32)
    source.eval(), target.eval()
    for a, b in zip(source.encoder(image), target.encoder(image.expand(-1, channels, -1, -1, -1)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_primus_has_the_name_that_nnssl_builds_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published class, which is what others build, takes the weights strictly."""
    sizes = zoo._PRIMUS["embed_dim"], zoo._PRIMUS["eva_depth"], zoo._PRIMUS["eva_numheads"]
    monkeypatch.setattr("bdfm_nnunet.checkpoints.adaptation_plan.PRIMUS_SIZES", {"m": sizes})
    torch.manual_seed(1)
    network = zoo.network("primus", 1).eval()
    kwargs = zoo._PRIMUS | {"strides": [[1, 1, 1], [2, 2, 2], [4, 4, 4]]}
    name = "bdfm_nnunet.networks.primus.PrimusNet"
    architecture = {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": []}
    settings = SETTINGS | {"architecture": architecture}
    weights = network.state_dict()
    entry = adaptation_plan(PLANS, settings, network=network, weights=weights, channels=1)
    assert entry is not None and fault_of(entry, SHAPE) == ""
    assert entry["architecture_plans"]["arch_class_name"] == "PrimusM"
    assert entry["architecture_plans"]["arch_kwargs"] is None and entry["key_to_lpe"] == "encoder.eva.pos_embed"
    target = Primus(1, 24, (8, 8, 8), 3, 2, 2, (32, 32, 32), init_values=0.1, scale_attn_inner=True).eval()
    _load_as_nnunet_does(target, entry, weights, 1)
    image = torch.randn(1, 1, 32, 32, 32)
    tokens = target.down_projection(image)
    assert torch.equal(tokens, network.encoder.down_projection(image))
    flat = tokens.flatten(2).transpose(1, 2)
    assert torch.equal(target.eva(flat)[0], network.encoder.eva(flat)[0])
    for change in ({"version": 2}, {"embed_dim": 48}, {"strides": [[1, 1, 1], [2, 2, 2]]}):
        other = architecture | {"arch_kwargs": kwargs | change}
        entry = adaptation_plan(PLANS, settings | {"architecture": other}, network=network, weights=weights, channels=1)
        assert entry is not None and entry["architecture_plans"]["arch_class_name"] == name


def test_nnssl_gets_every_field_that_it_asks_for() -> None:
    kwargs = dict.fromkeys(sorted(NNSSL_NETWORK), 1)
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture = {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": ["conv_op"]}
    names = ["encoder.stages.0.weight", "encoder.stem.convs.0.conv.weight"]
    settings = SETTINGS | {"architecture": architecture, "spacing": [1.0, 0.5, 0.5]}
    entry = adaptation_plan(
        PLANS, settings, network=zoo.network("resenc", 1), weights=names, channels=2, crop=(16, 32, 32)
    )
    assert entry is not None
    assert entry["architecture_plans"] == {
        "arch_class_name": "ResidualEncoderUNet", "arch_kwargs": kwargs, "arch_kwargs_requiring_import": ["conv_op"],
    }  # fmt: skip
    assert set(entry["pretrain_plan"]["configurations"]["median"]) == NNSSL_CONFIGURATION
    assert pretraining_configuration(entry)["patch_size"] == [16, 32, 32]
    assert entry["recommended_downstream_patchsize"] == [32, 32, 32] and entry["pretrain_num_input_channels"] == 2
    assert entry["keys_to_in_proj"] == ["encoder.stem.convs.0.conv"] and entry["key_to_lpe"] is None


def test_names_of_an_encoder_alone_have_its_prefix() -> None:
    class Transformer:
        key_to_encoder, key_to_stem, key_to_lpe = "eva", "down_projection", "eva.pos_embed"
        keys_to_in_proj = ("down_projection.proj",)

    settings = SETTINGS | {"architecture": _architecture("swin")}
    names = ["eva.pos_embed", "eva.blocks.0.weight", "down_projection.proj.weight"]
    for prefix in ("", "encoder."):
        weights = [prefix + name for name in names]
        entry = adaptation_plan(PLANS, settings, network=Transformer, weights=weights, channels=1)
        assert entry is not None and entry["key_to_lpe"] == f"{prefix}eva.pos_embed"
        assert entry["keys_to_in_proj"] == [f"{prefix}down_projection.proj"]
    assert adaptation_plan(PLANS, settings, network=Transformer, weights=["other"], channels=1) is None
    assert adaptation_plan(PLANS, settings, network=object, weights=names, channels=1) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"key_to_encoder": None}, "key_to_encoder"),
        ({"pretrain_plan": {"configurations": {"onemmiso": {}}}}, "patch_size is missing"),
        ({"pretrain_plan": {"configurations": []}}, "configurations"),
        ({"keys_to_in_proj": "encoder"}, "keys_to_in_proj"),
        ({"architecture_plans": {}}, "arch_class_name is missing"),
    ],
)
def test_other_entries_are_told_apart(changes: dict[str, Any], fault: str) -> None:
    entry, _ = _pretrained("swin")
    assert fault in fault_of(entry | changes, SHAPE)


def test_entries_of_nnssl_have_the_shape() -> None:
    """Names of presets without arguments, no spacing, one mask for all channels, tuples' lists."""
    entry = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {"configurations": {"noresample": {"patch_size": [192] * 3, "spacing": None,
                                                            "use_mask_for_norm": False}}},
        "pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem", "keys_to_in_proj": ["a"], "key_to_lpe": None,
    }  # fmt: skip
    assert fault_of(entry, SHAPE) == ""
    assert pretraining_configuration(entry)["patch_size"] == [192, 192, 192]
    assert pretraining_configuration(entry | {"pretrain_plan": {"configurations": {}}}) == {}


def test_citations_have_the_form_of_nnssl() -> None:
    cited = citations_of(["masked", "contrastive", "masked", "unheard of"], "PrimusM")
    assert [each["name"] for each in cited] == ["nnU-Net", "PrimusM", "BDFM", "SimCLR"]
    assert all(set(each) == {"type", "name", "apa_citations"} and each["apa_citations"] for each in cited)
    assert [each["name"] for each in citations_of([], "Mine")] == ["nnU-Net"]
