import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.tasks.task import Task
from bdfm_nnunet.training.lars import LARS
from bdfm_nnunet.training.optimizers import WarmupSchedule, build_optimizer, parameter_groups


class _SlowLARS:
    """The definition for one tensor, number by number."""

    def __init__(self, values: list[float], *, adapt: bool, decay: float, momentum: float, eta: float) -> None:
        self.values, self.speed = values, [0.0] * len(values)
        self.adapt, self.decay, self.momentum, self.eta = adapt, decay, momentum, eta

    def step(self, gradient: list[float], rate: float) -> None:
        if self.adapt:
            gradient = [g + self.decay * w for g, w in zip(gradient, self.values, strict=True)]
            length = math.sqrt(sum(w * w for w in self.values))
            slope = math.sqrt(sum(g * g for g in gradient))
            trust = self.eta * length / slope if length > 0 and slope > 0 else 1.0
            gradient = [trust * g for g in gradient]
        self.speed = [self.momentum * v + rate * g for v, g in zip(self.speed, gradient, strict=True)]
        self.values = [w - v for w, v in zip(self.values, self.speed, strict=True)]


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 4)).double()


def _optimizer(network: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    groups = parameter_groups({"all": (network.named_parameters(), 0.2)}, weight_decay=0.05)
    return build_optimizer("lars", [group | changes for group in groups])


def _descend(network: nn.Module, step: int) -> None:
    images = torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    network.zero_grad()
    network(images).square().sum().backward()


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_steps_are_those_of_the_definition(momentum: float) -> None:
    network = _network()
    optimizer = _optimizer(network, momentum=momentum, trust_coefficient=0.02)
    slow = {
        name: _SlowLARS(p.flatten().tolist(), adapt=p.ndim > 1, decay=0.05, momentum=momentum, eta=0.02)
        for name, p in network.named_parameters()
    }
    for step in range(4):
        _descend(network, step)
        rate = 0.2 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            slow[name].step(parameter.grad.flatten().tolist(), rate)
        optimizer.step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(slow[name].values).double(),
                                       rtol=1e-6, atol=1e-7, msg=name)  # fmt: skip


def _one_step(values: Tensor, gradient: Tensor | None, **group: Any) -> Tensor:
    parameter = nn.Parameter(values.clone())
    parameter.grad = gradient
    LARS([{"params": [parameter]} | group], lr=1.0, trust_coefficient=0.1).step()
    return parameter.detach()


def test_the_step_of_a_kernel_is_its_share_whatever_the_gradient() -> None:
    weight = torch.full((2, 2), 3.0)
    for scale in (1e-6, 1.0, 1e6):
        torch.testing.assert_close(_one_step(weight, scale * torch.ones(2, 2)), torch.full((2, 2), 2.7))


def test_vectors_and_exempt_groups_are_neither_adapted_nor_decayed() -> None:
    for values, group in ((torch.ones(3), {}), (torch.ones(2, 2), {"adapt": False})):
        found = _one_step(values, 0.25 * torch.ones_like(values), weight_decay=0.5, **group)
        assert torch.equal(found, torch.full_like(values, 0.75))
    table = nn.Parameter(torch.ones(2, 2))
    groups = parameter_groups({"all": (iter([("a.bias_table", table)]), 1.0)}, weight_decay=0.5)
    table.grad = torch.full((2, 2), 0.25)
    build_optimizer("lars", groups).step()
    assert torch.equal(table.detach(), torch.full((2, 2), 0.75))


def test_norms_of_zero_do_no_harm() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    assert torch.equal(_one_step(zero, one), -one), "a tensor of zeros takes the plain step"
    assert torch.equal(_one_step(one, zero), one) and torch.equal(_one_step(zero, zero), zero)
    assert torch.equal(_one_step(one, None), one), "without a gradient it stays"
    with_decay = _one_step(one, zero, weight_decay=0.1)  # the decay alone is a direction
    torch.testing.assert_close(with_decay, torch.full((2, 2), 0.9))


def test_groups_have_their_own_decay() -> None:
    changed = [_one_step(torch.eye(2), torch.ones(2, 2), weight_decay=decay) for decay in (0.0, 0.5)]
    assert not torch.allclose(*changed)


def test_a_resumed_run_is_the_same_bit_for_bit() -> None:
    straight, stopped = _network(), _network()
    optimizer, first = _optimizer(straight), _optimizer(stopped)
    for step in range(4):
        _descend(straight, step)
        optimizer.step()
    for step in range(2):
        _descend(stopped, step)
        first.step()
    resumed, second = _network(), _optimizer(_network())
    resumed.load_state_dict(stopped.state_dict())
    second = _optimizer(resumed)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        _descend(resumed, step)
        second.step()
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert [group["adapt"] for group in second.param_groups] == [True, False]


def test_a_closure_is_differentiated() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = LARS([parameter], lr=0.5)

    def closure() -> float:
        loss = parameter.sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 2 and torch.equal(parameter.detach(), torch.full((2,), 0.5))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": math.nan}])
def test_impossible_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        LARS([nn.Parameter(torch.ones(1))], **({"lr": 0.1} | wrong))


class _Process:
    """What a task asks its trainer: one of two processes with unequal shares of a batch of 7."""

    whole_batch = 7

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size


@pytest.mark.parametrize("kind", [Task, Pretraining])
def test_the_rate_is_that_of_the_joined_batch_in_every_process(kind: type[Task]) -> None:
    tasks = [kind(_Process(share)) for share in (4, 3)]
    assert [task.peak_rate("lars") for task in tasks] == [0.3 * 7 / 256] * 2
    assert tasks[0].peak_rate("adamw") == kind.rates["adamw"]
    rates = []
    for task in tasks:
        groups = parameter_groups({"all": (_network().named_parameters(), task.peak_rate("lars"))}, weight_decay=0)
        schedule = WarmupSchedule(build_optimizer("lars", groups), 10, 2, "cosine")
        schedule.step(3.7)
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
    assert rates[0] == rates[1] and 0 < rates[0][0] < 0.3 * 7 / 256
