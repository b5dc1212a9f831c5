import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import ResNet18UNet
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.plans.memory_targets import configuration_costs, memory_gb
from bdfm_nnunet.plans.resnet_planner import ResNet18UNetPlanner, patches_for, strides_for
from bdfm_nnunet.plans.variants import derive

BRATS = ((140.0, 171.0, 136.0), (1.0, 1.0, 1.0))
SAGITTAL = ((25.0, 256.0, 256.0), (6.5, 0.78, 0.78))
TINY = ((40.0, 40.0, 40.0), (1.0, 1.0, 1.0))
FLAT = ((3.0, 60.0, 60.0), (1.0, 1.0, 1.0))


def _total(strides: list[list[int]]) -> list[int]:
    return [math.prod(axis) for axis in zip(*strides)]


@pytest.mark.parametrize(
    ("case", "total"), [(BRATS, [16] * 3), (SAGITTAL, [2, 16, 16]), (TINY, [16] * 3), (FLAT, [1, 16, 16])]
)
def test_coarse_and_short_axes_are_halved_less(case: Any, total: list[int]) -> None:
    shape, spacing = case
    strides = strides_for(spacing, shape)
    assert len(strides) == 5 and strides[0] == [1, 1, 1] and _total(strides) == total


@pytest.mark.parametrize("case", [BRATS, SAGITTAL, TINY, FLAT])
def test_patches_grow_to_the_image_and_need_no_padding(case: Any) -> None:
    shape, spacing = case
    unit = _total(strides_for(spacing, shape))
    patches = patches_for(spacing, shape)
    for before, after in pairwise(patches):
        assert sum(b - a for a, b in zip(before, after)) == max(b - a for a, b in zip(before, after)) > 0
    assert all(size % step == 0 for patch in patches for size, step in zip(patch, unit))
    assert patches[-1] == [int(size // step) * step for size, step in zip(shape, unit)]


def test_more_memory_never_gives_less(skeleton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton((140, 171, 136), (1.0, 1.0, 1.0))
    planner = ResNet18UNetPlanner("Dataset501_Skeleton", plans_name="P")
    counted: Any = planner._costs
    cached = functools.cache(lambda patch, width: counted(list(patch), architecture[width]))
    architecture: dict[int, Any] = {}

    def costs(patch: list[int], chosen: dict[str, Any]) -> Any:
        width = chosen["arch_kwargs"]["features_per_stage"][0]
        architecture[width] = chosen
        return cached(tuple(patch), width)

    monkeypatch.setattr(planner, "_costs", costs)
    before, width, volume = 0, 0, 0
    for memory in (0.1, 0.8, 3, 8, 24):
        planner.UNet_vram_target_GB = memory
        chosen = planner.choose_network([1.0] * 3, [140.0, 171.0, 136.0], 140 * 171 * 136 * 1000.0)
        taken = chosen["architecture"]["arch_kwargs"]["features_per_stage"][0]
        assert taken >= width and chosen["batch_size"] >= 2
        if taken == width:
            assert math.prod(chosen["patch_size"]) >= volume
        counts = planner._costs(chosen["patch_size"], chosen["architecture"])
        assert memory_gb(counts, chosen["batch_size"]) <= memory
        width, volume, before = taken, math.prod(chosen["patch_size"]), chosen["batch_size"]
    assert width == 64 and before >= 2


def test_its_plans_are_those_of_nnunet(skeleton: Callable[..., Any]) -> None:
    skeleton((140, 171, 136), (1.0, 1.0, 1.0))
    plans = ResNet18UNetPlanner("Dataset501_Skeleton", gpu_memory_target_in_gb=8, plans_name="P").plan_experiment()
    manager = PlansManager(plans).get_configuration("3d_fullres")
    configuration: dict[str, Any] = manager.configuration
    assert manager.pool_op_kernel_sizes == [[1, 1, 1], *[[2, 2, 2]] * 4]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [64, 64, 128, 256, 512]
    with torch.device("meta"):
        network = build_network(configuration, inputs=4, outputs=3, deep_supervision=True)
    assert isinstance(network, ResNet18UNet)
    costs = configuration_costs(configuration, channels=4, classes=3, flops=True)
    noted = plans["configurations"]["3d_fullres"]["costs"]
    assert noted["parameters"] == costs.parameters == sum(p.numel() for p in network.parameters())
    assert noted["memory_gb"] <= 8
    with pytest.raises(InputError, match="take 96 or 112 there"):
        derive(plans, "3d_fullres", {"patch_size": [96, 96, 100]})


def test_too_little_memory_is_an_error(skeleton: Callable[..., Any]) -> None:
    skeleton((140, 171, 136), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="too little for any network: give at least"):
        ResNet18UNetPlanner("Dataset501_Skeleton", gpu_memory_target_in_gb=0.01, plans_name="P").plan_experiment()
