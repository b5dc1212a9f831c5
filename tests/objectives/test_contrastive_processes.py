"""Two processes train SimCLR as one: the same queue everywhere, and the gradient of the joined batch."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.contrastive import ContrastiveLearning
from bdfm_nnunet.settings import ContrastiveSettings
from tests.forking import run_together
from tests.networks.zoo import network


def _objective(**settings: Any) -> ContrastiveLearning:
    torch.manual_seed(0)
    objective = ContrastiveLearning(encoder_of(network("plain", 1)), ContrastiveSettings(queue=4, **settings))
    return objective.double()  # or rounding would hide differences of embeddings that are nearly alike


def _batch(objective: ContrastiveLearning) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    images = torch.randn(3, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = objective.draw(3, (16, 16, 16), generator=torch.Generator().manual_seed(2))
    return images, drawn | {"patients": torch.tensor([4, 4, 7])}


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    objective = _objective()
    wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
    images, drawn = _batch(objective)
    mine = slice(0, 2) if rank == 0 else slice(2, 3)  # uneven shares
    for _ in range(2):  # the second step has a queue
        objective.zero_grad()
        loss = wrapped(images[mine], **{name: value[mine] for name, value in drawn.items()})["loss"]
        (loss * (mine.stop - mine.start) * 2 / 3).backward()  # as a training weighs shares
    gradients = {name: p.grad for name, p in objective.named_parameters()}
    torch.save({"loss": loss.detach(), "gradient": gradients, "queue": objective.queue.kept}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one_training(tmp_path: Path) -> None:
    run_together(_train, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = _objective()
    images, drawn = _batch(alone)
    for _ in range(2):
        alone.zero_grad()
        loss = alone(images, **drawn)["loss"]
        loss.backward()
    assert torch.equal(first["queue"], second["queue"])
    torch.testing.assert_close(first["queue"], alone.queue.kept, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(first["loss"], loss.detach())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(first["gradient"][name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)
