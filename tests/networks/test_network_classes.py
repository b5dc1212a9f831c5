"""Class names in plans."""

from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_classes import check_network_classes

KWARGS = {
    "n_stages": 2, "features_per_stage": [8, 16], "conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None,
    "norm_op": "torch.nn.InstanceNorm3d", "strides": [1, [2, 2, 2]], "n_blocks_per_stage": [1, 1],
}  # fmt: skip
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
SWIN = "bdfm_nnunet.networks.swin_unet.SwinUNet"


def _configuration(network: Any = UNET, imports: Any = ("conv_op", "norm_op", "dropout_op"), **kwargs: Any) -> Any:
    architecture = {"network_class_name": network, "arch_kwargs": KWARGS | kwargs, "_kw_requires_import": imports}
    return {"architecture": architecture}


@pytest.mark.parametrize("network", [UNET, SWIN, "bdfm_nnunet.networks.SwinUNet"])
def test_networks_and_layers_are_taken(network: str) -> None:
    check_network_classes(_configuration(network), "plans.json")
    check_network_classes({}, "plans.json")  # of nnU-Net's first version


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen", "os.system", "torch.hub.load", "torch.nn", "torch.nn.functional.relu",
        "torch.nn.modules.module.torch.hub.load", "bdfm_nnunet.networks.swin.torch.hub.load",
        "bdfm_nnunet.networks.swin.math.prod", "bdfm_nnunet.studies.demonstration.run_demo",
        "bdfm_nnunet.files.shutil.rmtree",
        "dynamic_network_architectures.architectures.unet.np.save", "torch.nn.x-y", "torch.nn.Gone",
        "torch.nn.Parameter", "", None, 5,
    ],
)  # fmt: skip
def test_anything_else_is_refused_before_it_is_called(name: Any) -> None:
    with pytest.raises(InputError, match=r"^plans\.json describes a network that is not built"):
        check_network_classes(_configuration(name), "plans.json")
    if name is not None:
        with pytest.raises(InputError, match=r"^plans\.json describes a network that is not built"):
            check_network_classes(_configuration(conv_op=name), "plans.json")


@pytest.mark.parametrize(
    "change",
    [
        {"imports": ["gone"]}, {"n_blocks_per_stage": [10**7]}, {"features_per_stage": [10**9, 1]},
        {"window_size": [10**6] * 3}, {"window_size": [100] * 3}, {"strides": [[0, 1, 1]]},
        {"kernel_sizes": [["3"]]}, {"depths": 1.5}, {"num_heads": [True]},
    ],
)  # fmt: skip
def test_sizes_beyond_reason(change: Any) -> None:
    with pytest.raises(InputError, match=r"^plans\.json describes a network that is not built"):
        check_network_classes(_configuration(**change), "plans.json")
