"""A compiled objective is one graph, compiled once; without `start_from_data` it is seven pieces."""

from typing import Any

import torch

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.compiled_networks import is_compiled, start_from_data
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from tests.networks.zoo import network

IMAGES = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def _objective() -> tuple[MaskedImageModelling, torch.Tensor]:
    torch.manual_seed(0)
    objective = MaskedImageModelling(encoder_of(network("swin", 1)), PretrainingSettings())
    return objective, objective.draw_mask(1, (32, 32, 32), generator=torch.Generator().manual_seed(1))


def test_an_objective_is_one_graph_that_is_compiled_once() -> None:
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    objective, mask = _objective()
    torch._dynamo.reset()
    compiled: Any = torch.compile(objective, backend=keep, fullgraph=True)
    random = torch.get_rng_state()
    start_from_data(compiled, IMAGES, mask=mask)
    assert objective.mask_token.initialised and torch.equal(torch.get_rng_state(), random)
    for _ in range(2):
        compiled(IMAGES, mask=mask)["loss"].backward()
        start_from_data(compiled, IMAGES, mask=mask)
    assert is_compiled(compiled) and len(graphs) == 1


def test_plain_networks_start_in_their_first_step() -> None:
    objective, mask = _objective()
    start_from_data(objective, IMAGES, mask=mask)
    assert not is_compiled(objective) and not objective.mask_token.initialised
    assert objective.mask_token.waits_for_data and not objective.eval().mask_token.waits_for_data
