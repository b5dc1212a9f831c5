"""NeuroSTORM as plans name it."""

from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import NeuroSTORM, encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_costs import count_costs

KWARGS: dict[str, Any] = {
    "input_shape": [8, 12, 8, 5], "strides": [[1, 1, 1, 1], [2, 3, 2, 1], [2, 2, 2, 1]],
    "features_per_stage": [4, 8], "depths": [2, 2], "window_size": [2, 2, 2, 4],
}  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    "patch_size": KWARGS["input_shape"],
    "architecture": {
        "network_class_name": "bdfm_nnunet.networks.neurostorm_network.NeuroSTORM",
        "arch_kwargs": KWARGS, "_kw_requires_import": [],
    },
}  # fmt: skip


def _network(**changes: Any) -> NeuroSTORM:
    torch.manual_seed(0)
    return NeuroSTORM(2, 3, **(KWARGS | changes))


def test_outputs_are_for_every_voxel_and_frame() -> None:
    images = torch.randn(2, 2, 8, 12, 8, 5)
    found = _network()(images)
    assert isinstance(found, torch.Tensor) and found.shape == (2, 3, 8, 12, 8, 5)
    (as_list,) = _network(deep_supervision=True)(images)
    assert torch.equal(as_list, found)
    found.square().mean().backward()


def test_every_parameter_learns() -> None:
    network = _network()
    network(torch.randn(1, 2, 8, 12, 8, 4)).square().mean().backward()
    assert [name for name, each in network.named_parameters() if each.grad is None] == []


def test_its_view_is_that_of_the_encoder() -> None:
    view = encoder_of(_network())
    assert view.channels == (4, 8) and view.strides == ((2, 3, 2, 1), (4, 6, 4, 1)) and view.in_channels == 2
    assert view.stem is None and view.is_transformer and view.masks_tokens


def test_settings_reach_encoder_and_decoder() -> None:
    network = _network(
        mlp_ratio=2.0, full_last_window=False, both_directions=True, frame_seconds=1.6, table_seconds=0.4,
        gradient_checkpointing=True, legacy=True,
    )  # fmt: skip
    for part in (network.encoder, network.decoder):
        stage = part.stages[0]
        assert stage.checkpointing and stage.blocks[0].legacy and stage.blocks[0].mlp[0].out_features == 8
        assert stage.blocks[0].mamba.reverse_gate is not None
    assert [block.shifted for block in network.encoder.stages[-1].blocks] == [False, True]
    positions = network.encoder.stages[0].positions
    assert (positions.frame_seconds, positions.table_seconds) == (1.6, 0.4)


@pytest.mark.parametrize(
    "changes",
    [{"input_shape": [8, 12, 10, 5]}, {"strides": [[1, 1, 1, 1], [2, 3, 2, 1]]}, {"input_shape": [8, 12, 8]},
     {"strides": [[2, 1, 1, 1], [2, 3, 2, 1], [2, 2, 2, 1]]}, {"depths": [2]}, {"window_size": [2, 2, 2]},
     {"strides": [[1, 1, 1, 1], [2, 3, 2, 1], [2, 2, 2, 5]]}],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_sentences(changes: dict[str, Any]) -> None:
    architecture = CONFIGURATION["architecture"] | {"arch_kwargs": KWARGS | changes}
    with pytest.raises(InputError, match="describes a NeuroSTORM that cannot be built"):
        build_network(CONFIGURATION | {"architecture": architecture}, inputs=1, outputs=2, deep_supervision=False)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"depths": [2, 10**6]}, "depths"), ({"input_shape": [8, 12, 8, 10**6]}, "input_shape"),
     ({"window_size": [16, 16, 16, 4]}, "at most"), ({"features_per_stage": [4, 10**7]}, "features_per_stage"),
     ({"strides": [[1, 1, 1, 1], [2, 3, 0, 1], [2, 2, 2, 1]]}, "strides")],
)  # fmt: skip
def test_sizes_far_too_large_are_refused(changes: dict[str, Any], fault: str) -> None:
    architecture = CONFIGURATION["architecture"] | {"arch_kwargs": KWARGS | changes}
    with pytest.raises(InputError, match=fault):
        build_network(CONFIGURATION | {"architecture": architecture}, inputs=1, outputs=2, deep_supervision=False)


def test_its_costs_are_counted_without_content_and_as_those_of_a_real_step() -> None:
    def build() -> NeuroSTORM:
        return NeuroSTORM(2, 3, True, **KWARGS)

    counted, real = (count_costs(build, (1, 2, 8, 12, 8, 5), device=device) for device in ("meta", "cpu"))
    assert counted == real
    assert counted.activation_bytes > 0 and (counted.backward_flops or 0) > (counted.forward_flops or 0) > 0


def test_nnunet_builds_it_from_plans() -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name = CONFIGURATION["architecture"]["network_class_name"]
    network = get_network_from_plans(name, KWARGS, [], 1, 2, allow_init=True, deep_supervision=False)
    assert isinstance(network, NeuroSTORM) and network(torch.zeros(1, 1, 8, 12, 8, 5)).shape[1] == 2
