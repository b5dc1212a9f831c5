"""All tensors are copied or none."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.checkpoints.tensor_copying import copy_all_or_nothing, put_back
from bdfm_nnunet.errors import InputError
from tests.networks.zoo import network


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))


def _tensors(layers: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.randn(value.shape).to(value.dtype) for name, value in layers.state_dict().items()}


def _state(layers: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in layers.state_dict().items() if not value.is_meta}


def _unchanged(layers: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(layers.state_dict()[name], value) for name, value in before.items())


def test_parameters_and_buffers_are_copied_and_put_back() -> None:
    layers = _layers()
    before, tensors = _state(layers), _tensors(layers)
    kept = copy_all_or_nothing(layers, tensors, "a.pth")
    assert _unchanged(layers, tensors)
    put_back(layers, kept)
    assert _unchanged(layers, before)


@pytest.mark.parametrize("fault", ["meta", "expanded", "shared", "shape"])
def test_a_network_that_cannot_hold_them_is_left_as_it_was(fault: str) -> None:
    """The faulty tensor is not the first, so that others have been written when it is met."""
    layers = _layers()
    tensors = _tensors(layers)
    if fault == "meta":
        layers[1].weight = nn.Parameter(torch.empty(3, 3, device="meta"))
    elif fault == "expanded":
        layers[1].weight = nn.Parameter(torch.zeros(1, 3).expand(3, 3))
    elif fault == "shared":
        layers[1].weight = nn.Parameter(layers[0].weight.detach())
    else:
        tensors["1.weight"] = torch.zeros(2, 2)
    before = _state(layers)
    with pytest.raises(InputError, match=r"a\.pth cannot be copied .* is left as it was") as caught:
        copy_all_or_nothing(layers, tensors, "a.pth")
    assert "\n" not in str(caught.value)
    assert _unchanged(layers, before)


def test_an_interruption_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = _layers()
    before = _state(layers)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bdfm_nnunet.checkpoints.tensor_copying._check_copied", interrupted)
    with pytest.raises(KeyboardInterrupt):
        copy_all_or_nothing(layers, _tensors(layers), "a.pth")
    assert _unchanged(layers, before)


@pytest.mark.parametrize("fault", ["meta", "shared"])
def test_whole_networks(tmp_path: Path, fault: str) -> None:
    torch.manual_seed(1)
    torch.save(network("swin", 1).state_dict(), tmp_path / "a.pth")
    target = network("swin", 1)
    last = target.encoder.stages[1].blocks[1].mlp
    if fault == "meta":
        last[2].weight = nn.Parameter(torch.empty_like(last[2].weight, device="meta"))
    else:
        last[2].bias = nn.Parameter(target.encoder.stages[1].blocks[0].mlp[2].bias.detach())
    before = _state(target)
    weights = torch.load(tmp_path / "a.pth", weights_only=True)
    weights["encoder.stages.1.blocks.1.mlp.2.bias"] += 1
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(InputError, match="cannot be copied into this network"):
        load_pretrained(target, tmp_path / "a.pth")
    assert _unchanged(target, before)
