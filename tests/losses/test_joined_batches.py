"""However many processes share a batch of pairs: loss and gradient are those of the joined batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from bdfm_nnunet.losses.contrastive_losses import NegativeQueue, nt_xent, standardised_columns
from bdfm_nnunet.losses.joined_batches import gather_rows, sum_over_processes
from bdfm_nnunet.training.gradients import add_gradients, distributed_network
from bdfm_nnunet.training.process_group import shares
from tests.forking import run_together

PAIRS = 7  # in uneven shares for 2 and 3 processes
KEYS = torch.tensor([1, 2, 1, -1, 2, 1, -1])
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.05, "decoupled": True},
    "exclude": {"groups": KEYS, "same_group": "exclude"},
    "standardised": {"standardise": True},
    "positive": {"groups": KEYS, "same_group": "positive", "queue": torch.ones(2, 4)},
}


class _Embedding(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        self.options = options

    def forward(self, images: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        views, options = self.layers(images), self.options | given
        if options.pop("standardise", False):
            views = standardised_columns(views, gather_rows(views)[0].flatten(0, 1))
        first, second = views.unbind(1)
        return nt_xent(first, second, **options)


def _images() -> torch.Tensor:
    return torch.randn(PAIRS, 2, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten().clone() for p in module.parameters() if p.grad is not None])


def _share(rank: int, world: int) -> slice:
    sizes = shares(PAIRS, world)
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def _given(options: dict[str, Any], share: slice) -> dict[str, torch.Tensor]:
    return {"groups": options["groups"][share]} if "groups" in options else {}


def _losses(rank: int, world: int) -> dict[str, Any]:
    share, found = _share(rank, world), {}
    for name, options in VARIANTS.items():
        given, images = _given(options, share), _images()[share]
        plain = distributed_network(_Embedding(options), torch.device("cpu"))
        loss = plain(images, **given)
        loss.backward()
        weighed = distributed_network(_Embedding(options), torch.device("cpu"))

        def losses_of(part: Any, model: Any = weighed, given: Any = given) -> dict[str, torch.Tensor]:
            return {"loss": model(part["data"], **given)}

        add_gradients(weighed, [{"data": images}], losses_of, samples=PAIRS, world=world)
        found[name] = {"loss": loss.detach(), "plain": _gradients(plain), "weighed": _gradients(weighed)}
    return found


def _queue(share: slice) -> dict[str, torch.Tensor]:
    queue = NegativeQueue(5, 1)
    for step in range(3):
        queue.put(10.0 * step + torch.arange(PAIRS)[share, None], groups=torch.arange(PAIRS)[share])
    return {"embeddings": queue.embeddings.clone(), "groups": queue.groups.clone()}


def _unequal(rank: int) -> dict[str, Any]:
    rows = torch.full((2 * rank, 3), float(rank + 1), requires_grad=True)  # none, two, four ...
    whole, start = gather_rows(rows)
    total = sum_over_processes((whole * (rank + 1)).sum())
    total.backward()
    return {"whole": whole.detach(), "start": start, "total": total.detach(), "grad": rows.grad}


def _compiled(rank: int, world: int) -> torch.Tensor:
    return torch.compile(_Embedding({}), backend="eager")(_images()[_share(rank, world)]).detach()


def _run(rank: int, worlds: str, folder: str, compiled: str = "") -> None:
    torch.set_num_threads(1)
    for world in map(int, worlds.split()):
        if rank >= world:
            continue
        meeting = f"file://{folder}/meeting{world}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
        found = {"losses": _losses(rank, world), "queue": _queue(_share(rank, world)), "unequal": _unequal(rank)}
        if compiled:
            found["compiled"] = _compiled(rank, world)
        torch.save(found, f"{folder}/{world}_{rank}.pt")
        distributed.destroy_process_group()


def _check(found: dict[str, Any], rank: int, world: int) -> None:
    for name, options in VARIANTS.items():
        alone = _Embedding(options)
        loss = alone(_images())
        loss.backward()
        torch.testing.assert_close(found["losses"][name]["loss"], loss.detach())
        for kind in ("plain", "weighed"):
            torch.testing.assert_close(found["losses"][name][kind], _gradients(alone), atol=1e-7, rtol=1e-4)
    for name, value in _queue(slice(None)).items():
        assert torch.equal(found["queue"][name], value)
    rows = [number + 1.0 for number in range(world) for _ in range(2 * number)]
    unequal, factors = found["unequal"], sum(range(1, world + 1))
    assert unequal["whole"].tolist() == [[row] * 3 for row in rows] and unequal["start"] == sum(range(0, 2 * rank, 2))
    assert float(unequal["total"]) == 3 * sum(rows) * factors
    # each process has its factor for a row, and all of them ask for the sum
    assert torch.equal(unequal["grad"], torch.full((2 * rank, 3), float(factors * world)))


def test_joined_batch_of_two_and_three_processes(tmp_path: Path) -> None:
    run_together(_run, 3, "3 2", str(tmp_path))
    for world in (2, 3):
        for rank in range(world):
            _check(torch.load(tmp_path / f"{world}_{rank}.pt", weights_only=True), rank, world)


@pytest.mark.slow
def test_a_compiled_network_joins_the_batch_as_well(tmp_path: Path) -> None:
    run_together(_run, 2, "2", str(tmp_path), "compiled")
    for rank in range(2):
        found = torch.load(tmp_path / f"2_{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["compiled"], found["losses"]["plain"]["loss"])


def test_a_single_process_is_left_alone() -> None:
    rows = torch.rand(3, 2)
    assert gather_rows(rows) == (rows, 0) and sum_over_processes(rows) is rows
