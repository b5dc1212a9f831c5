"""Batch norms of two processes, with unequal shares, are that of one process with all samples."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from bdfm_nnunet.networks.resnet import ResNet18
from bdfm_nnunet.training.gradients import add_gradients, distributed_network
from bdfm_nnunet.training.joint_batch_norm import JointBatchNorm, join_batch_norms
from tests.forking import run_together

SAMPLES, FIRST = 5, 3
KINDS = ("affine", "plain", "cumulative", "resnet18")
STEPS = 2


class Loss(nn.Module):
    """A network and a mean over samples, which weigh differently."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
        found = self.network(images)
        features = found[-1] if isinstance(found, list) else found.relu_()
        return {"loss": (features.flatten(1).square().mean(1) * weights).mean()}


def _network(kind: str) -> Loss:
    torch.manual_seed(0)
    if kind == "resnet18":
        return Loss(ResNet18(2, features=(2, 3, 4, 5)))
    settings: dict[str, Any] = {"affine": {}, "plain": {"affine": False}, "cumulative": {"momentum": None}}[kind]
    norm = nn.BatchNorm3d(4, **settings)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return Loss(nn.Sequential(nn.Conv3d(2, 4, 1), norm))


def _batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(SAMPLES, 2, 16, 16, 16, generator=generator) + torch.arange(SAMPLES).reshape(-1, 1, 1, 1, 1)
    return images, torch.rand(SAMPLES, generator=generator)


def _state(network: Loss) -> dict[str, Tensor]:
    gradients = {f"grad {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    evaluated = {"evaluated": network.eval()(*_batch(9))["loss"].detach()}
    return {**gradients, **{name: buffer.clone() for name, buffer in network.named_buffers()}, **evaluated}


def _losses(network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = network(batch["data"], batch["weights"])
    return losses


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = slice(0, FIRST) if rank == 0 else slice(FIRST, SAMPLES)
    results = {}
    for kind in KINDS:
        network = _network(kind)
        wrapped = distributed_network(network, torch.device("cpu"))
        for step in range(STEPS):
            wrapped.zero_grad()
            images, weights = (part[share] for part in _batch(step))
            part = {"data": images, "weights": weights}
            add_gradients(wrapped, [part], partial(_losses, wrapped), samples=SAMPLES, world=2)
        results[kind] = _state(network)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("joint")
    run_together(_train, 2, str(folder))
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(both: list[dict[str, dict[str, Tensor]]], kind: str) -> None:
    alone = _network(kind)
    for step in range(STEPS):
        alone.zero_grad()
        alone(*_batch(step))["loss"].backward()
    expected = _state(alone)
    largest = max(value.abs().max() for name, value in expected.items() if name.startswith("grad"))
    for found in (each[kind] for each in both):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # gradients of biases before a norm are rounding errors
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * float(largest), msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_equal_to_the_bit(both: list[dict[str, dict[str, Tensor]]], kind: str) -> None:
    first, second = (each[kind] for each in both)
    assert any("running" in name for name in first)
    for name, value in first.items():
        if not name.startswith("grad"):
            assert torch.equal(value, second[name]), name


def test_a_norm_is_replaced_with_what_it_holds() -> None:
    norm = nn.BatchNorm3d(3, eps=1e-3, momentum=0.2).eval()
    network = nn.Sequential(nn.Conv3d(1, 3, 1), norm, nn.InstanceNorm3d(3))
    state = network.state_dict()
    join_batch_norms(network)
    joint = network[1]
    assert isinstance(joint, JointBatchNorm) and joint.weight is norm.weight and not joint.training
    assert (joint.eps, joint.momentum) == (1e-3, 0.2) and isinstance(network[2], nn.InstanceNorm3d)
    assert network.state_dict().keys() == state.keys()
    assert join_batch_norms(network)[1] is joint
    assert isinstance(join_batch_norms(nn.BatchNorm1d(2)), JointBatchNorm)
