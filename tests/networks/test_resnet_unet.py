from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from bdfm_nnunet.networks import ResNet18UNet
from bdfm_nnunet.networks.network_costs import count_costs

KWARGS: dict[str, Any] = {
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "features_per_stage": [4, 4, 8, 16, 32],
    "decoder_features": [4, 4, 8, 8],
}


def _network(channels: int = 2, classes: int = 3, **changes: Any) -> ResNet18UNet:
    torch.manual_seed(0)
    return ResNet18UNet(channels, classes, **(KWARGS | changes))


def test_outputs_follow_the_strides_as_nnunet_expects() -> None:
    outputs = _network(deep_supervision=True)(torch.randn(2, 2, 8, 32, 32))
    sizes = [(8, 32, 32), (8, 16, 16), (4, 8, 8), (2, 4, 4)]
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *size) for size in sizes]


def test_deep_supervision_is_switched_at_the_decoder() -> None:
    network = _network(deep_supervision=True).eval()
    images = torch.randn(1, 2, 8, 32, 32)
    finest = network(images)[0]
    network.decoder.deep_supervision = False
    assert torch.equal(network(images), finest)


@pytest.mark.parametrize("size", [(7, 30, 33), (8, 32, 32), (3, 5, 6)])
def test_any_size_comes_back(size: tuple[int, ...]) -> None:
    network = _network(deep_supervision=True).eval()
    outputs = network(torch.randn(1, 2, *size))
    assert tuple(outputs[0].shape[2:]) == size
    assert tuple(outputs[-1].shape[2:]) == tuple(-(-n // step) for n, step in zip(size, (4, 8, 8), strict=True))


def test_padding_is_that_of_zeros() -> None:
    network, images = _network().eval(), torch.randn(1, 2, 7, 30, 33)
    padded = torch.nn.functional.pad(images, (0, 15, 0, 2, 0, 1))
    torch.testing.assert_close(network(images), network(padded)[..., :7, :30, :33])


def test_nnunet_builds_it_from_plans() -> None:
    network = get_network_from_plans(
        "bdfm_nnunet.networks.resnet_unet.ResNet18UNet", KWARGS, [], 4, 3, allow_init=True, deep_supervision=True
    )
    assert isinstance(network, ResNet18UNet) and network.decoder.deep_supervision
    assert network.encoder.conv1.in_channels == 4


def test_nnunet_loads_its_weights_for_other_classes(tmp_path) -> None:
    torch.save({"network_weights": _network(classes=3).state_dict()}, tmp_path / "a.pth")
    network = _network(classes=5)
    torch.nn.init.zeros_(network.encoder.conv1.weight)
    load_pretrained_weights(network, str(tmp_path / "a.pth"))
    assert torch.equal(network.encoder.conv1.weight, _network().encoder.conv1.weight)


def test_every_parameter_learns() -> None:
    network = _network(deep_supervision=True)
    sum(output.square().mean() for output in network(torch.randn(2, 2, 16, 32, 32))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_two_axes() -> None:
    network = _network(strides=[[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]])
    assert network(torch.randn(2, 2, 40, 33)).shape == (2, 3, 40, 33)


def test_costs_counted_without_computing_are_those_of_a_real_pass() -> None:
    counted, real = (
        count_costs(lambda: _network(deep_supervision=True), (2, 2, 8, 32, 32), device=device)
        for device in ("meta", "cpu")
    )
    assert counted == real and counted.forward_flops > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [[2, 2, 2], *KWARGS["strides"][1:]]}, "start with ones"),
        ({"features_per_stage": [4, 8, 8, 16, 32]}, "same number twice"),
        ({"features_per_stage": [4, 4, 8, 16]}, "four stages"),
        ({"decoder_features": [4, 4]}, "2 widths"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _network(**changes)
