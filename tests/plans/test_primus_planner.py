import itertools
import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.primus import PrimusNet
from bdfm_nnunet.nnunet_files import check_plans, resolve_configuration
from bdfm_nnunet.plans.growing_patches import growing_patches
from bdfm_nnunet.plans.image_planning import PLANNERS
from bdfm_nnunet.plans.memory_targets import configuration_costs, memory_gb
from bdfm_nnunet.plans.network_names import IMAGE_NETWORKS, PRIMUS_KINDS, primus_name
from bdfm_nnunet.plans.primus_planner import PrimusPlanner, architecture_of
from bdfm_nnunet.plans.variants import derive
from tests.conftest import point_to
from tests.plans.conftest import Skeleton

BRATS = ((140.0, 171.0, 136.0), (1.0, 1.0, 1.0))
SAGITTAL = ((25.0, 256.0, 256.0), (6.5, 0.78, 0.78))
FLAT = ((3.0, 60.0, 60.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("case", [BRATS, SAGITTAL, FLAT])
def test_patches_are_whole_tokens_and_grow_to_the_image(case: Any) -> None:
    shape, spacing = case
    patches = growing_patches([8, 8, 8], spacing, shape)
    assert all(size % 8 == 0 for patch in patches for size in patch)
    assert all(all(b >= a for a, b in zip(one, two)) and one != two for one, two in pairwise(patches))
    assert patches[-1] == [max(int(size // 8), 1) * 8 for size in shape]


def _planner(network: str, memory: float) -> PrimusPlanner:
    return PrimusPlanner("Dataset501_Skeleton", network=network, gpu_memory_target_in_gb=memory, plans_name="P")


def test_more_memory_never_gives_less(skeleton: Callable[..., Any]) -> None:
    skeleton(*BRATS)
    planner, volume = _planner("primus-s", 1), 0
    for memory in (1, 24):
        planner.UNet_vram_target_GB = memory
        chosen = planner.choose_network([1.0] * 3, list(BRATS[0]), 140 * 171 * 136 * 1000.0)
        costs = planner._costs(chosen["patch_size"], chosen["architecture"])
        assert memory_gb(costs, chosen["batch_size"]) <= memory and chosen["batch_size"] >= 2
        assert math.prod(chosen["patch_size"]) >= volume
        volume = math.prod(chosen["patch_size"])
    assert volume == 136 * 168 * 136


@pytest.fixture(scope="module")
def _planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = point_to(tmp_path_factory.mktemp("primus"), monkeypatch)
        Skeleton(root).write((60, 70, 24), (1.0, 1.0, 3.0), channels=3)
        found: dict[str, Any] = _planner("primus-s", 1.5).plan_experiment()
        return found


@pytest.fixture
def plans(_planned: dict[str, Any]) -> dict[str, Any]:
    """Plans of a Primus for anisotropic images of three channels."""
    return deepcopy(_planned)


def test_its_plans_are_those_of_nnunet(plans: dict[str, Any]) -> None:
    manager = PlansManager(plans).get_configuration("3d_fullres")
    configuration: dict[str, Any] = manager.configuration
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["input_shape"] == configuration["patch_size"] and primus_name(kwargs) == "primus-s"
    assert manager.pool_op_kernel_sizes == [[1, 1, 1], [2, 2, 2], [4, 4, 4]]
    with torch.device("meta"):
        network = build_network(configuration, inputs=3, outputs=3, deep_supervision=True)
    assert isinstance(network, PrimusNet) and network.decoder.deep_supervision
    counted = configuration_costs(configuration, channels=3, classes=3, flops=True)
    noted = plans["configurations"]["3d_fullres"]["costs"]
    assert noted["parameters"] == counted.parameters == sum(p.numel() for p in network.parameters())


def test_another_patch_brings_other_positions(plans: dict[str, Any]) -> None:
    variant = derive(plans, "3d_fullres", {"patch_size": [16, 32, 24]})
    assert variant["architecture"]["arch_kwargs"]["input_shape"] == [16, 32, 24]
    planned = plans["configurations"]["3d_fullres"]
    assert planned["architecture"]["arch_kwargs"]["input_shape"] == planned["patch_size"] != [16, 32, 24]
    plans["configurations"]["other"] = variant
    check_plans(plans, "the plans")
    again = derive(plans, "other", {"training.epochs": 3})
    plans["configurations"]["again"] = again
    assert resolve_configuration(plans, "again")["architecture"]["arch_kwargs"]["input_shape"] == [16, 32, 24]
    with pytest.raises(InputError, match="take 16 or 24 there"):
        derive(plans, "3d_fullres", {"patch_size": [20, 32, 24]})


def test_a_patch_that_was_changed_by_hand_is_refused_with_the_remedy(plans: dict[str, Any]) -> None:
    plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16]}
    with pytest.raises(InputError, match=r"patches of \[16, 16, 16\] voxels, but its network is for .*--variant NAME"):
        check_plans(plans, "the plans")


def test_blocks_and_patches_of_masks_are_whole_tokens(plans: dict[str, Any]) -> None:
    derive(plans, "3d_fullres", {"pretraining.patch_size": 8, "pretraining.encode": "visible"})
    with pytest.raises(InputError, match=r"expected whole tokens of \[8, 8, 8\]"):
        derive(plans, "3d_fullres", {"pretraining.patch_size": 4})
    with pytest.raises(InputError, match="no full-resolution stem"):
        derive(plans, "3d_fullres", {"pretraining.stem": True})
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["version"] = 2
    with pytest.raises(InputError, match="plan a Swin U-Net or a Primus of version 1"):
        derive(plans, "3d_fullres", {"pretraining.encode": "visible"})


def test_too_little_memory_is_an_error(skeleton: Callable[..., Any]) -> None:
    skeleton(*BRATS)
    with pytest.raises(InputError, match="too little for any network: give at least"):
        _planner("primus-m", 0.5).plan_experiment()


def test_every_name_has_a_planner_and_a_network() -> None:
    assert set(PLANNERS) == set(IMAGE_NETWORKS)
    for network in PRIMUS_KINDS:
        architecture = architecture_of(network, [16, 16, 16])
        assert primus_name(architecture["arch_kwargs"]) == network
    with torch.device("meta"):
        built = build_network({"architecture": architecture}, inputs=1, outputs=2, deep_supervision=False)
    assert isinstance(built, PrimusNet) and network == "primus-v3-l"
    kinds = itertools.groupby(sorted(PRIMUS_KINDS.values()), key=lambda kind: kind[0])
    assert [(size, len(list(of_size))) for size, of_size in kinds] == [(size, 3) for size in "blms"]
    assert primus_name({"embed_dim": 24}) == "primus"
