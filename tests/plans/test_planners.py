import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_costs import Costs
from bdfm_nnunet.networks.swin_unet import SwinUNet
from bdfm_nnunet.plans.memory_targets import configuration_costs, largest_batch, memory_gb
from bdfm_nnunet.plans.planners import PlainUNetPlanner, ResidualUNetPlanner
from bdfm_nnunet.plans.swin_planner import SwinUNetPlanner
from tests.plans.token_grids import needs_no_padding

BRATS = ((140, 171, 136), (1.0, 1.0, 1.0))
SAGITTAL = ((256, 256, 25), (0.78, 0.78, 6.5))
TINY = ((40, 40, 40), (1.0, 1.0, 1.0))


def planned(planner: Any, gpu_memory: float) -> dict[str, Any]:
    plans = planner("Dataset501_Skeleton", gpu_memory_target_in_gb=gpu_memory, plans_name="P").plan_experiment()
    configuration: dict[str, Any] = PlansManager(plans).get_configuration("3d_fullres").configuration
    return configuration


@pytest.mark.parametrize(
    ("shape", "spacing"), [((140, 171, 136), (1.0, 1.0, 1.0)), ((25, 256, 256), (6.5, 0.78, 0.78)), TINY]
)
def test_more_memory_never_gives_less(
    skeleton: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> None:
    skeleton(shape, spacing)
    planner = SwinUNetPlanner("Dataset501_Skeleton", plans_name="P")
    monkeypatch.setattr(planner, "_costs", functools.cache(planner._costs))  # each network is counted once
    before: dict[str, Any] = {"patch_size": [1, 1, 1], "batch_size": 2}
    for memory in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.4, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 16, 20, 24, 40):
        planner.UNet_vram_target_GB = memory
        chosen = planner.choose_network(list(spacing), [float(size) for size in shape], math.prod(shape) * 1000.0)
        assert all(a <= b for a, b in zip(before["patch_size"], chosen["patch_size"]))
        assert seen(before) <= seen(chosen)
        assert chosen["batch_size"] >= 2
        assert_grid_and_heads(chosen)
        before = chosen
    assert before["architecture"]["arch_kwargs"]["features_per_stage"][1] == 96


def seen(configuration: dict[str, Any]) -> int:
    return math.prod(configuration["patch_size"]) * int(configuration["batch_size"])


def assert_grid_and_heads(configuration: dict[str, Any]) -> None:
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert needs_no_padding(configuration["patch_size"], kwargs["strides"], kwargs["window_size"])
    assert all(c % heads == 0 for c, heads in zip(kwargs["features_per_stage"][1:], kwargs["num_heads"]))


def test_brats_at_8_gb_is_the_published_depth_on_128_cubed(skeleton: Callable[..., Any]) -> None:
    made = skeleton(*BRATS)
    configuration = planned(SwinUNetPlanner, 8)
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert configuration["patch_size"] == [128, 128, 128]
    assert configuration["batch_size"] == 2
    assert kwargs["depths"] == [2, 2, 6, 2]
    assert kwargs["features_per_stage"] == [32, 96, 192, 384, 768]
    assert 6 < configuration["costs"]["memory_gb"] <= 8
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"] * 4
    plans = json.loads((made.preprocessed / "P.json").read_text())
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert plans["experiment_planner_used"] == "SwinUNetPlanner"


def test_coarse_axis_comes_first_and_keeps_its_shape(skeleton: Callable[..., Any]) -> None:
    skeleton(*SAGITTAL)
    configuration = planned(SwinUNetPlanner, 1)
    assert configuration["spacing"] == [6.5, 0.78, 0.78]
    assert configuration["architecture"]["arch_kwargs"]["strides"][1:3] == [[1, 4, 4], [1, 2, 2]]
    assert configuration["patch_size"][0] <= 25 < configuration["patch_size"][1]


def test_stock_nnunet_builds_and_runs_the_planned_network(skeleton: Callable[..., Any]) -> None:
    skeleton(*TINY, channels=1)
    configuration = planned(SwinUNetPlanner, 0.05)
    architecture = configuration["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        deep_supervision=True,
    )
    assert isinstance(network, SwinUNet)
    outputs = network(torch.zeros(1, 1, *configuration["patch_size"]))
    assert [len(outputs), *outputs[0].shape] == [len(architecture["arch_kwargs"]["strides"]) - 1, 1, 3] + list(
        configuration["patch_size"]
    )


def test_batches_cover_at_most_a_twentieth_of_a_small_data_set(skeleton: Callable[..., Any]) -> None:
    skeleton(*TINY, cases=8)
    assert planned(SwinUNetPlanner, 8)["batch_size"] == 2
    skeleton(*TINY, cases=200)
    assert planned(SwinUNetPlanner, 8)["batch_size"] == 10


def test_too_little_memory_is_an_error_that_says_how_much_is_enough(skeleton: Callable[..., Any]) -> None:
    skeleton(*TINY)
    with pytest.raises(InputError, match=r"--gpu-memory 0.001 is too little .* at least 0\.0"):
        planned(SwinUNetPlanner, 0.001)


def test_flat_images_are_refused(skeleton: Callable[..., Any]) -> None:
    skeleton((1, 256, 256), (5.0, 1.0, 1.0))
    with pytest.raises(InputError, match="flat images"):
        planned(SwinUNetPlanner, 8)


@pytest.mark.parametrize(
    ("planner", "network"), [(PlainUNetPlanner, "PlainConvUNet"), (ResidualUNetPlanner, "ResidualEncoderUNet")]
)
def test_convolutional_planners_follow_the_memory_target(
    skeleton: Callable[..., Any], planner: Any, network: str
) -> None:
    skeleton(*BRATS)
    small, large = planned(planner, 2), planned(planner, 8)
    assert math.prod(small["patch_size"]) < math.prod(large["patch_size"])
    assert large["architecture"]["network_class_name"].endswith(network)
    assert large["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert small["costs"]["parameters"] < large["costs"]["parameters"]


def test_estimate_agrees_with_nnunets_own_plan_for_8_gb(skeleton: Callable[..., Any]) -> None:
    """The calibration: nnU-Net's plan for 8 GB and BraTS counts as about 8 GB."""
    skeleton(*BRATS)
    configuration = planned(PlainUNetPlanner, 8) | {"patch_size": [128, 128, 128]}
    costs = configuration_costs(configuration, channels=4, classes=3)
    assert 7.2 < memory_gb(costs, 2) < 8.8


def test_memory_and_largest_batch_are_inverse() -> None:
    costs = Costs(parameters=1, activation_bytes=2**30, state_bytes=2**29)
    assert largest_batch(costs, memory_gb(costs, 5) + 1e-6) == 5
    assert largest_batch(costs, memory_gb(costs, 5) - 1e-6) == 4
    assert largest_batch(costs, 0.1) == 0
