"""Every kind of network learns from a checkpoint of one channel: 1 to 5 channels, anisotropic, labels and regions."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.encoders import suited_optimizer
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from bdfm_nnunet.training.optimizers import build_optimizer, parameter_groups
from tests.small_datasets import LABELS, REGIONS

CUBE, SLICES = (32, 32, 32), (16, 32, 32)
SMALL_CUBE, SMALL_SLICES = (16, 16, 16), (8, 16, 24)
"""For Primus, which needs no more."""
_CONVOLUTIONS: dict[str, Any] = {
    "n_stages": 4,
    "features_per_stage": [4, 8, 12, 16],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "n_conv_per_stage_decoder": [1, 1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
_LIBRARY = "dynamic_network_architectures.architectures.unet."
_PRIMUS = {"embed_dim": 24, "eva_depth": 2, "eva_numheads": 2, "strides": [[1, 1, 1], [2, 2, 2], [4, 4, 4]]}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (f"{_LIBRARY}PlainConvUNet", _CONVOLUTIONS | {"n_conv_per_stage": [1, 1, 1, 1]}),
    "resenc": (f"{_LIBRARY}ResidualEncoderUNet", _CONVOLUTIONS | {"n_blocks_per_stage": [1, 1, 2, 1]}),
    "swin": (
        "bdfm_nnunet.networks.swin_unet.SwinUNet",
        {"features_per_stage": [4, 8, 16], "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4, 4]},
    ),
    "resnet18": (
        "bdfm_nnunet.networks.resnet_unet.ResNet18UNet",
        {"features_per_stage": [4, 4, 8, 12, 16], "decoder_features": [4, 4, 4, 8]},
    ),
    "primus": ("bdfm_nnunet.networks.primus.PrimusNet", _PRIMUS),
    "primus_v2": ("bdfm_nnunet.networks.primus.PrimusNet", _PRIMUS | {"version": 2}),
    "primus_v3": ("bdfm_nnunet.networks.primus.PrimusNet", _PRIMUS | {"version": 3}),
}
"""Class and arguments, without what depends on the spacing."""


def _patch(kind: str, *, sliced: bool) -> tuple[int, ...]:
    if kind.startswith("primus"):
        return SMALL_SLICES if sliced else SMALL_CUBE
    return SLICES if sliced else CUBE


def _geometry(kind: str, *, sliced: bool) -> dict[str, Any]:
    """Strides and kernels as planners choose them for cubic voxels, or for slices three times as thick."""
    if kind.startswith("primus"):
        return {"input_shape": list(_patch(kind, sliced=sliced))}
    first = [1, 2, 2] if sliced else [2, 2, 2]
    if kind == "swin":
        return {"strides": [[1, 1, 1], [2, 4, 4] if sliced else [4, 4, 4], first]}
    if kind == "resnet18":
        return {"strides": [[1, 1, 1], first, [2, 2, 2], [2, 2, 2], [1, 1, 1]]}
    kernels = [[1, 3, 3] if sliced else [3, 3, 3], *[[3, 3, 3]] * 3]
    return {"strides": [[1, 1, 1], first, [2, 2, 2], [2, 2, 2]], "kernel_sizes": kernels}


def _configuration(kind: str, *, sliced: bool) -> dict[str, Any]:
    name, kwargs = NETWORKS[kind]
    imported = [key for key in ("conv_op", "norm_op", "nonlin") if key in kwargs]
    kwargs = kwargs | _geometry(kind, sliced=sliced)
    architecture = {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": imported}
    return {"architecture": architecture, "patch_size": list(_patch(kind, sliced=sliced)), "batch_dice": False}


@pytest.fixture(params=NETWORKS, scope="module")
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind of network, and a checkpoint of its encoder after a step of masked modelling: cubic, of one channel."""
    kind: str = request.param
    network = build_network(_configuration(kind, sliced=False), inputs=1, outputs=2, deep_supervision=False)
    settings, patch = PretrainingSettings(decoder_channels=8, block_size=1, mask_ratio=0.5), _patch(kind, sliced=False)
    objective = MaskedImageModelling(encoder_of(network), settings)
    images, generator = torch.randn(1, 1, *patch), torch.Generator().manual_seed(0)
    _step(objective, lambda: objective(images, **objective.draw(1, patch, generator=generator))["loss"])
    path = tmp_path_factory.mktemp(kind) / "pretrained.pth"
    torch.save({"network_weights": objective.state_dict()}, path)
    return kind, path


def _step(network: nn.Module, loss_of: Any) -> float:
    """Take an optimiser step; the loss."""
    groups = parameter_groups({"all": (network.named_parameters(), 0.01)}, weight_decay=0.01)
    optimizer = build_optimizer(suited_optimizer(network), groups)
    loss: Tensor = loss_of()
    loss.backward()
    optimizer.step()
    return loss.item()


def _nnunet_loss(configuration: Mapping[str, Any], labels: dict[str, Any]) -> tuple[Any, list[list[float]], int]:
    """nnU-Net's own loss of a configuration, the scales of its targets, and the outputs it wants."""
    manager = ConfigurationManager(dict(configuration))
    label_manager = LabelManager(labels, [1, 2] if labels is REGIONS else None)
    trainer: Any = SimpleNamespace(
        configuration_manager=manager, label_manager=label_manager, enable_deep_supervision=True, is_ddp=False,
        _do_i_compile=lambda: False, print_to_log_file=print,
    )  # fmt: skip
    trainer._get_deep_supervision_scales = lambda: nnUNetTrainer._get_deep_supervision_scales(trainer)
    return (
        nnUNetTrainer._build_loss(trainer),
        trainer._get_deep_supervision_scales(),
        label_manager.num_segmentation_heads,
    )


@pytest.mark.parametrize(
    ("channels", "labels", "sliced"), [(2, REGIONS, False), (5, LABELS, True)], ids=["regions", "slices"]
)
def test_every_target_learns_from_a_checkpoint_of_one_channel(
    channels: int, labels: dict[str, Any], sliced: bool, pretrained: tuple[str, Path]
) -> None:
    kind, path = pretrained
    configuration = _configuration(kind, sliced=sliced)
    loss, scales, outputs = _nnunet_loss(configuration, labels)
    network = build_network(configuration, inputs=channels, outputs=outputs, deep_supervision=True)
    report = load_pretrained(network, path)
    assert report.encoder_share > 0.99 and bool(report.adapted) == (channels > 1 or sliced)
    before = {name: value.clone() for name, value in network.named_parameters()}
    patch = configuration["patch_size"]
    images, target = torch.randn(2, channels, *patch), torch.zeros(2, 1, *patch)
    target[:, :, 4:12, 4:24, 8:20] = 1
    target[:, :, 6:9, 8:16, 10:14] = 2
    whole = torch.cat([target > 0, target == 2], 1).float() if labels is REGIONS else target
    targets = [functional.interpolate(whole, [round(n * s) for n, s in zip(patch, scale)]) for scale in scales]
    found = network.train()(images)
    assert [each.shape[2:] for each in found] == [each.shape[2:] for each in targets]
    losses = [_step(network, lambda: loss(network(images), targets)) for _ in range(2)]
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    encoder = {name for name in before if name.startswith("encoder.")}
    assert len(moved & encoder) > 0.8 * len(encoder)
    network.eval()
    network.decoder.deep_supervision = False
    assert network(images).shape == (2, outputs, *patch) and network(images).isfinite().all()
