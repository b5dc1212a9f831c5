"""Weights of networks that no plans can name are refused by their family, with a reason and what to take instead."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.readers.unsupported_reader import unsupported
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import ResNet18
from tests.networks.zoo import NETWORKS, network

CUBE, SQUARE, ROW = (2, 1, 3, 3, 3), (2, 3, 4, 4), (4,)
FILES: dict[str, tuple[dict[str, Any], str]] = {
    "MedicalNet": (
        {"state_dict": {"module.conv1.weight": CUBE, "module.layer1.0.conv1.weight": CUBE,
                        "module.layer2.0.downsample.0.weight": CUBE}}, "ResNet with shortcuts without bias"),
    "BrainIAC": ({"state_dict": {"backbone.conv1.weight": CUBE, "backbone.layer1.0.conv3.weight": CUBE}}, "bottleneck"),
    "ResNet-34": ({"state_dict": {"conv1.weight": CUBE, "layer1.2.conv1.weight": CUBE}}, "more blocks than ResNet-18"),
    "torchvision": ({"conv1.weight": SQUARE, "layer1.0.conv1.weight": SQUARE}, "ResNet for 2-D images"),
    "SegResNet": ({"state_dict": {"convInit.conv.weight": CUBE, "down_layers.0.1.conv1.conv.weight": CUBE}}, "SegRes"),
    "CT-FM": ({"encoder.conv_init.weight": CUBE, "encoder.layers.0.blocks.0.conv1.weight": CUBE}, "SegResNet"),
    "AMAES": ({"model.encoder.in_conv.conv1.conv.weight": CUBE}, "yucca"),
    "AMAES, compiled": ({"state_dict": {"_orig_mod.model.encoder.encoder_conv1.conv.weight": CUBE}}, "yucca"),
    "STU-Net": ({"state_dict": {"conv_blocks_context.0.0.conv1.weight": CUBE}}, "nnU-Net v1"),
    "MedNeXt": ({"state_dict": {"stem.weight": (2, 1, 1, 1, 1), "enc_block_0.0.conv1.weight": CUBE}}, "MedNeXt"),
    "SAM-Med3D": ({"model_state_dict": {"image_encoder.blocks.0.norm1.weight": ROW}}, "SAM-Med3D"),
    "BrainMVP": ({"state_dict": {"encoder.patch_embed1.proj.weight": CUBE, "encoder.blocks1.0.norm.weight": ROW}},
                 "UniFormer"),
    "Models Genesis": ({"state_dict": {"module.down_tr64.ops.0.conv1.weight": CUBE}}, "Models Genesis"),
    "Brain-ID": ({"model": {"backbone.encoders.0.basic_module.SingleConv1.conv.weight": CUBE}}, "pytorch-3dunet"),
    "MAE": ({"model": {"patch_embed.proj.weight": SQUARE, "blocks.0.attn.qkv.weight": ROW}}, "plain vision"),
    "2-D Swin": ({"model": {"patch_embed.proj.weight": SQUARE, "layers.0.blocks.0.attn.qkv.weight": ROW}}, "2-D"),
    "Video Swin": (
        {"state_dict": {"backbone.patch_embed.proj.weight": CUBE, "backbone.patch_embed.norm.weight": ROW,
                        "backbone.layers.0.blocks.0.attn.qkv.weight": ROW}}, "norm after its patch embedding"),
    "Swin V2": (
        {"model": {"patch_embed.proj.weight": CUBE, "layers.0.blocks.0.attn.logit_scale": ROW}}, "Swin transformer V2"),
}  # fmt: skip


def _tensors(content: dict[str, Any]) -> dict[str, Any]:
    return {name: _tensors(value) if isinstance(value, dict) else torch.ones(value) for name, value in content.items()}


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, reason = FILES[name]
    torch.save(_tensors(content) | {"epoch": 3}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")  # what it says of itself can be asked
    with pytest.raises(InputError) as caught:
        assert checkpoint.renamed
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/a.pth cannot be used as weights: it is of a") and reason in said
    assert "give weights of nnssl" in said and "\n" not in said


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("inside", ["", "encoder."])
def test_networks_that_plans_can_name_are_not_refused(kind: str, inside: str) -> None:
    module: nn.Module = network(kind, 1).encoder if inside else network(kind, 1)
    assert not unsupported(module.state_dict())


def test_resnet_18_is_not_refused() -> None:
    assert not unsupported(ResNet18(1, features=(4, 4, 8, 8)).state_dict())
