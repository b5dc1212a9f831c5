"""Networks from plans are those that nnU-Net builds, and nothing else is built."""

import copy
import resource
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from bdfm_nnunet import files
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import network_building
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.old_plans import architecture_of
from bdfm_nnunet.plans.swin_planner import WIDTHS
from bdfm_nnunet.plans.swin_planner import architecture_of as swin_architecture
from bdfm_nnunet.plans.token_grid import layouts_for

OLD = {
    "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 8, "unet_max_num_features": 20,
    "n_conv_per_stage_encoder": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "num_pool_per_axis": [2, 2, 2],
    "conv_kernel_sizes": [[3, 3, 3]] * 3, "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "patch_size": [16, 16, 16],
}  # fmt: skip
"""A configuration of nnU-Net's first plans."""


def swin() -> dict[str, Any]:
    return {"architecture": swin_architecture(layouts_for((1, 1, 1), (16, 16, 16))[0], WIDTHS[0])}


def convolutional(axes: int = 3, **changes: Any) -> dict[str, Any]:
    return {"architecture": architecture_of(OLD), "patch_size": [16] * axes} | changes


def built(configuration: Any, **settings: Any) -> nn.Module:
    torch.manual_seed(3)
    return build_network(configuration, inputs=2, outputs=3, deep_supervision=True, **settings)


@pytest.mark.parametrize(
    "configuration", [swin(), convolutional(), OLD, OLD | {"UNet_class_name": "ResidualEncoderUNet"}]
)
def test_networks_have_the_weights_that_nnunet_gives_them(configuration: dict[str, Any]) -> None:
    ours = built(configuration).state_dict()
    torch.manual_seed(3)
    manager = ConfigurationManager(copy.deepcopy(configuration))
    theirs = nnUNetTrainer.build_network_architecture(None, manager, 2, 3, True).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if "architecture" not in configuration:
        assert architecture_of(configuration) | {"network_class_name": ""} == manager.configuration["architecture"] | {
            "network_class_name": ""  # where that class lay when those plans were made
        }


def test_classes_are_checked_before_they_are_called(tmp_path: Any) -> None:
    marker = tmp_path / "was_run"
    configuration = convolutional()
    configuration["architecture"]["network_class_name"] = "subprocess.Popen"
    configuration["architecture"]["arch_kwargs"] = {"args": ["touch", str(marker)]}
    configuration["architecture"]["_kw_requires_import"] = []
    with pytest.raises(InputError, match=r"here\.json describes a network that is not built"):
        built(configuration, name="here.json")
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [{"n_stages": 2}, {"conv_op": "torch.nn.LeakyReLU"}, {"unknown": 1},
     {"n_conv_per_stage_decoder": [1]}],
)  # fmt: skip
def test_settings_that_make_no_network(change: dict[str, Any]) -> None:
    configuration = copy.deepcopy(convolutional())
    configuration["architecture"]["arch_kwargs"] |= change
    with pytest.raises(InputError, match=r"^here\.json describes a \w+ that cannot be built"):
        built(configuration, name="here.json")


@pytest.mark.parametrize(
    "change",
    [{"UNet_class_name": "os.system"}, {"n_conv_per_stage_encoder": "222"}, {"UNet_base_num_features": None}],
)
def test_first_plans_that_make_no_network(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^here\.json describes no network"):
        built(OLD | change, name="here.json")


def test_a_network_beyond_all_memory_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = OLD | {"UNet_base_num_features": 60_000, "unet_max_num_features": 60_000}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"describes a PlainConvUNet of \d+ GB, more than this machine has memory"):
        built(wide)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    size = sum(parameter.numel() for parameter in built(OLD).parameters()) * 4
    for limit, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(network_building, "memory_bytes", lambda limit=limit: limit)
        if fits:
            built(OLD)
        else:
            with pytest.raises(InputError, match="more than this machine has memory"):
                built(OLD)
    assert network_building.memory_bytes is not files.memory_bytes
