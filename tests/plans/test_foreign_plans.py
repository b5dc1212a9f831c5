"""Plans read off checkpoints of other projects build networks that take all of their weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.plans.planning import plan_dataset
from bdfm_nnunet.plans.pretrained_plans import PretrainedPlans, read_pretrained_plans
from tests.checkpoints.monai_swin import MonaiSwin

NNSSL = {"spacing": [1, 1, 1], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": False}
OLD: dict[str, Any] = {
    "UNet_class_name": "ResidualEncoderUNet", "UNet_base_num_features": 4, "unet_max_num_features": 6,
    "n_conv_per_stage_encoder": [1, 2], "n_conv_per_stage_decoder": [1], "num_pool_per_axis": [1, 1, 0],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 1]], "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3]],
    "spacing": [1.0, 1.0, 1.0], "patch_size": [8, 8, 8], "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [True],
}  # fmt: skip
RESENC: dict[str, Any] = {
    "n_stages": 2, "features_per_stage": [4, 6], "kernel_sizes": [[1, 3, 3], [3, 3, 3]], "n_blocks_per_stage": [1, 2],
    "strides": [[1] * 3, [2, 2, 1]], "n_conv_per_stage_decoder": [1], "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
CLASSES = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
NAMES = {"conv_op": "torch.nn.modules.conv.Conv3d", "nonlin": "torch.nn.LeakyReLU",
         "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}  # fmt: skip


def _resenc() -> nn.Module:
    torch.manual_seed(3)
    return ResidualEncoderUNet(1, num_classes=2, **(RESENC | CLASSES)).eval()


def _nnssl(name: str, patch: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    plan = {"transpose_forward": [0, 1, 2], "configurations": {"onemmiso": NNSSL | {"patch_size": [patch] * 3}}}
    architecture = {"arch_class_name": name, "arch_kwargs": kwargs}
    return {"nnssl_adaptation_plan": {"architecture_plans": architecture, "pretrain_plan": plan,
                                      "recommended_downstream_patchsize": [patch] * 3}}  # fmt: skip


def _loaded(path: Path) -> tuple[PretrainedPlans, Any]:
    """The planned network with the weights, all of which it must take."""
    plans = read_pretrained_plans(path)
    network = build_network(plans.configuration, inputs=1, outputs=3, deep_supervision=False).eval()
    report = load_pretrained(network, path)
    assert report.source_share == 1 and not report.adapted
    assert {name for name in report.new if name.startswith("encoder.")} <= {"encoder.norm.weight", "encoder.norm.bias"}
    return plans, network


def _same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_first_plans_of_nnunet(tmp_path: Path) -> None:
    source = _resenc()
    plans = {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": OLD}}
    content = {"network_weights": source.state_dict(), "init_args": {"plans": plans, "configuration": "3d_fullres"}}
    torch.save(content | {"trainer_name": "nnUNetTrainer"}, tmp_path / "old.pth")
    found, network = _loaded(tmp_path / "old.pth")
    assert found.network == "resenc" and found.images.masked == (True,)
    image = torch.randn(1, 1, 8, 8, 8)
    _same(network.encoder(image), source.encoder(image))  # type: ignore[operator]


def test_first_plans_of_another_class(tmp_path: Path) -> None:
    configuration = OLD | {"UNet_class_name": "os.system"}
    plans = {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"c": configuration}}
    content = {"network_weights": _resenc().state_dict(), "init_args": {"plans": plans, "configuration": "c"}}
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(InputError, match=r"UNet_class_name is 'os\.system'"):
        read_pretrained_plans(tmp_path / "old.pth")


def test_resenc_of_nnssl(tmp_path: Path) -> None:
    source = _resenc()
    entry = _nnssl("ResidualEncoderUNet", 8, RESENC | NAMES)
    torch.save({"network_weights": source.state_dict()} | entry, tmp_path / "a.pth")
    found, network = _loaded(tmp_path / "a.pth")
    assert found.network == "resenc" and found.configuration["patch_size"] == [8, 8, 8] and found.spacing == [1, 1, 1]
    image = torch.randn(1, 1, 8, 8, 8)
    _same(network.encoder(image), source.encoder(image))  # type: ignore[operator]


def test_primus_of_nnssl_in_the_other_order(tmp_path: Path) -> None:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"embed_dim": 24, "eva_depth": 2, "eva_numheads": 2, "init_values": 0.1,
                             "scale_attn_inner": True}  # fmt: skip
    source = Primus(1, patch_embed_size=(8, 8, 8), num_classes=1, input_shape=(24, 24, 24), **sizes).eval()
    entry = _nnssl("PrimusX", 24, {"encoder_eva_depth": 2, "encoder_eva_numheads": 2})
    torch.save({"network_weights": source.state_dict()} | entry, tmp_path / "a.pth")
    found, network = _loaded(tmp_path / "a.pth")
    assert found.configuration["architecture"]["arch_kwargs"]["input_shape"] == [24, 24, 24]
    image = torch.randn(1, 1, 24, 24, 24)
    tokens = source.down_projection(image).transpose(2, 3).flatten(2).transpose(1, 2)
    theirs = source.eva(tokens)[0].transpose(1, 2).unflatten(2, (3, 3, 3)).transpose(2, 3)
    _same(network.encoder(image), [theirs])


def test_what_the_file_cannot_tell_is_told_once(tmp_path: Path) -> None:
    """The plans' network and the settings by which fine-tuning reads the file belong together."""
    source = MonaiSwin(1, features=12, depths=(1, 2), heads=(3, 2), window=3, order="mergingv2")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.pt")
    found = read_pretrained_plans(tmp_path / "a.pt", merging="mergingv2", weight_set=None)
    assert found.reading == {"merging": "mergingv2"}
    assert found.configuration["architecture"]["arch_kwargs"]["merging_order"] == "swin"
    network = build_network(found.configuration, inputs=1, outputs=3, deep_supervision=False)
    assert load_pretrained(network, tmp_path / "a.pt", **found.reading).source_share == 1
    with pytest.raises(InputError, match="--merging needs --weights"):
        plan_dataset(1, reading=found.reading)


def test_swin_of_monai(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = MonaiSwin(1, features=12, depths=(1, 2), heads=(3, 2), window=3, order="monai-1.4").eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "a.pt"
    )
    found, network = _loaded(tmp_path / "a.pt")
    assert found.network == "swin" and found.configuration["patch_size"] == [96, 96, 96]
    network.encoder.norm = nn.Identity()
    image = torch.randn(1, 1, 12, 8, 16)
    with torch.no_grad():
        theirs = [feature.permute(0, 3, 2, 1)[None] for feature in source.features(image)[:-1]]
        _same(network.encoder(image.permute(0, 1, 4, 3, 2)), theirs)
