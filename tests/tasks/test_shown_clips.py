"""Clips of subject-level tasks: augmentation, and what a training says of them."""

from types import SimpleNamespace
from typing import Any

import torch

from bdfm_nnunet.settings import SubjectSettings
from bdfm_nnunet.tasks.shown_clips import ShownClips
from tests.memory_runs import MemoryRuns

SIZE = (12, 12, 12, 6)


def _shown(share: slice = slice(0, 2), **settings: Any) -> ShownClips:
    manager = SimpleNamespace(patch_size=list(SIZE), spacing=[2.0, 2.0, 2.0, 0.8])
    trainer = SimpleNamespace(
        configuration_manager=manager, whole_batch=2, share=share, device="cpu", training=SimpleNamespace(seed=5)
    )
    return ShownClips(trainer, SubjectSettings(**({"rotation": 0.0, "p_intensity": 0.0} | settings)))


def _batch(clips: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    brain = torch.ones(2, clips, *SIZE[:3], dtype=torch.bool)
    return {"data": torch.randn(2, clips, 1, *SIZE, generator=generator), "brain": brain}


def _changed(number: int = 0, **settings: Any) -> torch.Tensor:
    shown = _shown(**settings)
    return shown.changed({**_batch(settings.get("clips", 1)), **shown.drawn(number)})


def test_without_augmentation_clips_are_as_they_were_read() -> None:
    assert torch.equal(_changed(clips=2), _batch(2)["data"])


def test_a_clip_is_turned_as_a_whole_and_its_noise_is_fresh_in_each_frame() -> None:
    shown = _shown(rotation=20.0)
    batch = _batch(1)
    batch["data"] = batch["data"][..., :1].expand(-1, -1, -1, -1, -1, -1, 6).clone()  # all frames alike
    turned = [shown.changed({**batch, **shown.drawn(number)}) for number in range(4)]
    assert all(torch.allclose(each, each[..., :1].expand_as(each), atol=1e-6) for each in turned)
    assert any(not torch.allclose(each, batch["data"]) for each in turned)
    noisy = _shown(p_intensity=1.0)
    added = noisy.changed({**batch, **noisy.drawn(0)})[0, 0, 0].flatten(0, 2)
    added = added - added.mean(1, keepdim=True)
    assert added.std() > 0.01 and torch.corrcoef(added.T).fill_diagonal_(0).abs().max() < 0.35


def test_mirroring_is_by_the_axes_that_are_asked_for() -> None:
    data = _batch(2)["data"]
    found = [_changed(number, clips=2, mirror_axes=(1,)) for number in range(8)]
    both = [torch.equal(each[0], data[0].flip(3)) for each in found]  # (clips, 1, X, Y, Z, T)
    assert any(both) and not all(both)
    assert all(torch.equal(each[0], data[0].flip(3)) or torch.equal(each[0], data[0]) for each in found)


def test_draws_belong_to_samples_and_not_to_processes() -> None:
    options: dict[str, Any] = {"rotation": 15.0, "p_intensity": 0.5, "clips": 3, "mirror_axes": (0, 2)}
    whole = _shown(**options).drawn(7)
    for place in range(2):
        part = _shown(slice(place, place + 1), **options).drawn(7)
        assert torch.equal(part["flips"][0], whole["flips"][place])
        assert all(torch.equal(value[0], whole["drawn"][name][place]) for name, value in part["drawn"].items())
    assert whole["drawn"]["matrix"].shape == (2, 3, 3, 4)
    assert not torch.equal(whole["drawn"]["noise_keys"][0, 0], whole["drawn"]["noise_keys"][0, 1])


def test_the_log_counts_clips_and_short_runs() -> None:
    runs = MemoryRuns({"a": 13, "b": 6, "c": 4}, size=SIZE[:3])
    said = _shown(clips=2).sentence(runs, list(runs.cases))
    assert "2 clips of 12 x 12 x 12 voxels and 6 frames" in said
    assert "the 3 training runs have 5 clips; 1 runs are shorter" in said


def test_prediction_shows_as_many_clips_at_once_as_a_step_of_a_process() -> None:
    runs = MemoryRuns({"a": 30, "b": 12}, size=SIZE[:3])
    for count, most in ((1, 2), (2, 1)):
        whole, steps = _shown().whole(runs, list(runs.cases), rank=0, count=count)
        assert max(len(starts) for _, starts in whole.parts) == most and steps == -(-len(whole.parts) // count)
