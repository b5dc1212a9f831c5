import math

import pytest
import torch
from torch import nn

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.training.optimizers import WarmupSchedule, build_optimizer, parameter_groups
from bdfm_nnunet.training.precision import autocast_type
from tests.networks.zoo import network


def _optimizer() -> torch.optim.Optimizer:
    return build_optimizer(
        "adamw", parameter_groups({"all": (nn.Linear(2, 2).named_parameters(), 0.5)}, weight_decay=0.1)
    )


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    net = network("swin", 1)
    encoder = encoder_of(net).module
    parts = {"encoder": (encoder.named_parameters(), 0.1), "rest": (net.named_parameters(), 1.0)}
    groups = parameter_groups(parts, weight_decay=0.05)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in net.parameters())
    by_name = {group["name"]: group for group in groups}
    assert by_name["encoder"]["lr"] == 0.1 and by_name["rest_no_decay"]["lr"] == 1.0
    assert by_name["encoder"]["weight_decay"] == 0.05 and by_name["encoder_no_decay"]["weight_decay"] == 0
    free = {id(p) for p in by_name["encoder_no_decay"]["params"]}
    assert id(encoder.stages[0].blocks[0].attn.relative_position_bias_table) in free
    assert id(encoder.patch_embed.weight) not in free


def test_optimisers() -> None:
    groups = parameter_groups({"all": (nn.Linear(2, 2).named_parameters(), 0.5)}, weight_decay=0.1)
    assert isinstance(build_optimizer("adamw", groups), torch.optim.AdamW)
    sgd = build_optimizer("sgd", groups)
    assert sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.99


@pytest.mark.parametrize("decay", ["poly", "cosine"])
def test_schedule_rises_to_its_peak_and_falls_to_zero(decay: str) -> None:
    schedule = WarmupSchedule(_optimizer(), 10, 2, decay)  # type: ignore[arg-type]
    assert [schedule.factor(epoch) for epoch in (0, 1, 2, 10)] == [0, 0.5, 1, 0]
    expected = 0.5**0.9 if decay == "poly" else 0.5 * (1 + math.cos(math.pi / 2))
    assert schedule.factor(6) == pytest.approx(expected)
    schedule.step(1)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == [0.25, 0.25]


def test_schedule_without_warmup_starts_at_its_peak() -> None:
    assert WarmupSchedule(_optimizer(), 10, 0, "poly").factor(0) == 1


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert autocast_type("auto", cpu) is None and autocast_type("fp32", cpu) is None
    assert autocast_type("bf16", cpu) == torch.bfloat16 and autocast_type("fp16", cpu) == torch.float16


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_fused_steps_are_the_plain_ones(kind: str) -> None:
    """Against PyTorch's loop over parameters, with gradients of several sizes."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        groups = parameter_groups({"all": (layers.named_parameters(), 0.1)}, weight_decay=0.05)
        optimizer = build_optimizer(kind, groups)  # type: ignore[arg-type]
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(5):
            optimizer.zero_grad()
            layers(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in layers.parameters()])
    torch.testing.assert_close(*results)


def test_devices_without_a_fused_step_do_without() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(2, device="meta"))], "lr": 0.1}]
    assert not build_optimizer("adamw", groups).defaults["fused"]  # type: ignore[arg-type]
