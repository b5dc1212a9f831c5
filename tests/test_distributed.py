"""Two processes train as one: the same mask token everywhere, and the gradient of the joined batch."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.sequence import SequenceModelling
from bdfm_nnunet.settings import PretrainingSettings, SequenceSettings
from bdfm_nnunet.training.gradients import add_gradients, distributed_network
from bdfm_nnunet.training.process_group import shares
from tests.forking import run_together
from tests.networks.zoo import network


def _objective(**settings: Any) -> MaskedImageModelling:
    torch.manual_seed(0)
    swin = network("swin", 1, drop_path_rate=0.0)
    return MaskedImageModelling(encoder_of(swin), PretrainingSettings(**settings))


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 16, 16, 16, generator=generator) + torch.tensor([0.0, 3.0])[:, None, None, None, None]
    return images, _objective().draw_mask(2, (16, 16, 16), generator=generator)


VISIBLE: dict[str, Any] = {"encode": "visible", "rebuild": 0.5, "decoder_channels": 8}


def _whole(objective: MaskedImageModelling) -> dict[str, torch.Tensor]:
    return objective.draw(2, (16, 16, 32), generator=torch.Generator().manual_seed(1))


def _visible_images() -> torch.Tensor:
    return torch.randn(2, 1, 16, 16, 32, generator=torch.Generator().manual_seed(2))


def _train_visible(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(_objective(**VISIBLE))
    drawn = {name: value[rank : rank + 1] for name, value in _whole(wrapped.module).items()}
    wrapped(_visible_images()[rank : rank + 1], **drawn)["loss"].backward()
    tokens = [token.value.detach() for token in wrapped.module.pixel_decoder.mask_tokens]
    gradients = {name: parameter.grad for name, parameter in wrapped.module.named_parameters()}
    torch.save({"tokens": tokens, "gradients": gradients}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_that_encode_what_is_visible_are_one_training(tmp_path: Path) -> None:
    run_together(_train_visible, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = _objective(**VISIBLE)
    alone(_visible_images(), **_whole(alone))["loss"].backward()
    for one, other, token in zip(first["tokens"], second["tokens"], alone.pixel_decoder.mask_tokens):
        assert torch.equal(one, other) and one.abs().sum() > 0
        torch.testing.assert_close(one, token.value.detach())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(first["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


def _of_clips() -> SequenceModelling:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": (8, 8, 8, 4), "patch_size": (2, 2, 2, 1), "features": (4, 8)}
    encoder = NeurostormEncoder(1, **sizes, depths=(2, 1), merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2))
    return SequenceModelling(encoder_of(encoder), SequenceSettings(mask_window=(2, 2, 2, 2), redundancy_dropout=0.2))


def _clips(objective: SequenceModelling) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    clips = torch.randn(3, 1, 8, 8, 8, 4, generator=generator)
    brain = torch.rand(3, 8, 8, 8, generator=generator) < torch.tensor([0.2, 0.5, 0.9])[:, None, None, None]
    return clips, objective.draw(3, clips.shape[2:], generator=generator) | {"brain": brain}


def _train_clips(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    wrapped = distributed_network(_of_clips(), torch.device("cpu"))
    clips, drawn = _clips(wrapped.module)
    mine = shares(3, 2)[0]
    part = slice(mine) if rank == 0 else slice(mine, None)
    batch = {"data": clips[part], "drawn": {name: value[part] for name, value in drawn.items()}}
    terms = add_gradients(wrapped, [batch], lambda each: wrapped(each["data"], **each["drawn"]), samples=3, world=2)
    gradients = {name: parameter.grad for name, parameter in wrapped.module.named_parameters()}
    torch.save({"loss": terms["loss"], "samples": len(clips[part]), "gradients": gradients}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_that_share_clips_unevenly_are_one_training(tmp_path: Path) -> None:
    run_together(_train_clips, 2, str(tmp_path))
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [each["samples"] for each in found] == [2, 1]
    alone = _of_clips()
    clips, drawn = _clips(alone)
    loss = alone(clips, **drawn)["loss"]
    loss.backward()
    torch.testing.assert_close(sum(each["loss"] * each["samples"] for each in found) / 3, loss.detach())
    for name, parameter in alone.named_parameters():
        for each in found:
            torch.testing.assert_close(each["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for name, settings in (("default", {}), ("published", {"mask_token": "scalar_mean"})):
        wrapped = DistributedDataParallel(_objective(**settings))
        images, mask = (part[rank : rank + 1] for part in _inputs())
        torch.manual_seed(rank)  # the noise of the published token must not differ all the same
        wrapped(images, mask=mask)["loss"].backward()
        results[name] = {
            "token": wrapped.module.mask_token.value.detach().clone(),
            "gradient": {n: p.grad for n, p in wrapped.module.named_parameters()},
        }
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one_training(tmp_path: Path) -> None:
    run_together(_train, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in first:
        assert torch.equal(first[name]["token"], second[name]["token"]), name
        assert first[name]["token"].abs().sum() > 0
    alone = _objective()
    images, mask = _inputs()
    alone(images, mask=mask)["loss"].backward()
    torch.testing.assert_close(alone.mask_token.value, torch.nn.Parameter(first["default"]["token"]))
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(first["default"]["gradient"][name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)
