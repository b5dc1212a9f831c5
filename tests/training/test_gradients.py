"""However many processes and micro-batches: the gradient is that of the joined batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from bdfm_nnunet.training.gradients import add_gradients, distributed_network, micro_batches
from bdfm_nnunet.training.process_group import shares
from tests.forking import run_together
from tests.networks.zoo import network

SAMPLES = 9
ACCUMULATE = (1, 2)


def _objective() -> MaskedImageModelling:
    torch.manual_seed(0)
    return MaskedImageModelling(encoder_of(network("swin", 1, drop_path_rate=0.0)), PretrainingSettings())


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    levels = torch.arange(SAMPLES).float()[:, None, None, None, None]
    images = torch.randn(SAMPLES, 1, 16, 16, 16, generator=generator) + levels
    return {"data": images, "mask": _objective().draw_mask(SAMPLES, (16, 16, 16), generator=generator)}


def _of(rank: int, world: int) -> dict[str, Any]:
    sizes = shares(SAMPLES, world)
    start = sum(sizes[:rank])
    return {name: value[start : start + sizes[rank]] for name, value in _batch().items()}


def _train(rank: int, count: str, folder: str) -> None:
    world = int(count)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting{world}", rank=rank, world_size=world)
    results: dict[str, Any] = {}
    for accumulate in ACCUMULATE:
        wrapped = distributed_network(_objective(), torch.device("cpu"))
        mine = _of(rank, world)
        # the token starts from the whole share before it is cut, so that all arms start alike
        wrapped.module.reconstruct(mine["data"], mask=mine["mask"])

        def losses_of(part: dict[str, Any], model: Any = wrapped) -> dict[str, torch.Tensor]:
            return model(part["data"], mask=part["mask"])

        add_gradients(wrapped, micro_batches(mine, accumulate), losses_of, samples=SAMPLES, world=world)
        gradients = {name: p.grad.clone() for name, p in wrapped.module.named_parameters()}
        results[str(accumulate)] = {"token": wrapped.module.mask_token.value.detach(), "gradients": gradients}
    torch.save(results, f"{folder}/{world}_{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradient_of_the_joined_batch(world: int, tmp_path: Path) -> None:
    run_together(_train, world, str(world), str(tmp_path))
    alone, batch = _objective(), _batch()
    alone(batch["data"], mask=batch["mask"])["loss"].backward()
    for rank in range(world):
        results = torch.load(tmp_path / f"{world}_{rank}.pt", weights_only=True)
        for accumulate in ACCUMULATE:
            found = results[str(accumulate)]
            torch.testing.assert_close(found["token"], alone.mask_token.value.detach())
            for name, parameter in alone.named_parameters():
                torch.testing.assert_close(found["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("parts", [1, 2, 4, 9])
def test_micro_batches_of_one_process(parts: int) -> None:
    alone, batch = _objective(), _batch()
    alone.reconstruct(batch["data"], mask=batch["mask"])
    expected = alone(batch["data"], mask=batch["mask"])
    expected["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in alone.named_parameters()}
    alone.zero_grad()
    pieces = micro_batches(batch, parts)
    terms = add_gradients(alone, pieces, lambda part: alone(part["data"], mask=part["mask"]), samples=SAMPLES)
    assert len(pieces) == parts and terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term.detach())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-3, msg=name)


def test_split_cuts_what_has_an_entry_per_sample() -> None:
    batch = {
        "data": torch.arange(10).reshape(5, 2),
        "keys": list("abcde"),
        "target": [torch.arange(5), torch.arange(10).reshape(5, 2)],
        "weights": np.arange(5),
        "patch": (1, 2, 3),
    }
    first, second = micro_batches(batch, 2)
    assert [first["keys"], second["keys"]] == [["a", "b", "c"], ["d", "e"]]
    assert torch.equal(torch.cat([first["data"], second["data"]]), batch["data"])
    assert [part.tolist() for part in second["target"]] == [[3, 4], [[6, 7], [8, 9]]]
    assert second["weights"].tolist() == [3, 4] and first["patch"] == second["patch"] == (1, 2, 3)
    assert micro_batches(batch, 1) == [batch]
