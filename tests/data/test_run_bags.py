"""Clips of whole runs: order, parts of a run, processes, and every frame once."""

from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.data.run_bags import RunBags, WholeRuns
from tests.memory_runs import MemoryRuns

LENGTHS = {"a": 11, "b": 12, "c": 9, "d": 23, "e": 10}
SIZE = (8, 8, 8, 4)


def _bags(share: slice = slice(0, 2), **options: Any) -> RunBags:
    known: Any = {"batch_size": 2, "crop": SIZE, "crops": 2, "seed": 3} | options
    return RunBags(MemoryRuns(LENGTHS), list(LENGTHS), share=share, **known)


def _start_of(runs: MemoryRuns, case: str, clip: torch.Tensor) -> int:
    """The first frame of a clip, found by its content."""
    frames, length = runs.frames[case], clip.shape[-1]
    (found,) = [
        at for at in range(frames.shape[3] - length + 1) if np.array_equal(frames[..., at : at + length], clip[0])
    ]
    return found


def test_a_run_is_shown_by_clips_of_different_parts_of_it() -> None:
    runs, bags, starts = MemoryRuns(LENGTHS), _bags(crops=3), []
    for number in range(10):
        batch = bags.generate_numbered_batch(number)
        assert batch["data"].shape == (2, 3, 1, *SIZE) and batch["brain"].shape == (2, 3, 8, 8, 8)
        assert torch.equal(batch["brain"][0, 0], torch.from_numpy(runs.inside))
        for key, clips in zip(batch["keys"], batch["data"], strict=True):
            own = [_start_of(runs, key, clip) for clip in clips]
            assert own == sorted(own) and own[-1] - own[0] >= (LENGTHS[key] - 4) // 3
            starts.append((key, *own))
    assert len(set(starts)) > 15  # drawn anew in each pass
    seen = [key for key, *_ in starts]
    assert all(sorted(seen[at : at + 5]) == sorted(LENGTHS) for at in range(0, 20, 5))


def test_what_is_shown_depends_on_no_process() -> None:
    whole = _bags().generate_numbered_batch(4)
    for place in range(2):
        part = _bags(slice(place, place + 1)).generate_numbered_batch(4)
        assert part["keys"] == whole["keys"][place : place + 1]
        assert torch.equal(part["data"][0], whole["data"][place])
    other = _bags(seed=4).generate_numbered_batch(4)
    assert not torch.equal(other["data"], whole["data"])


def test_short_runs_make_short_batches_in_every_process() -> None:
    for place in range(2):
        bags = _bags(slice(place, place + 1), crop=(8, 8, 8, 11))
        sizes = [bags.generate_numbered_batch(number)["data"].shape[-1] for number in range(5)]
        whole = _bags(crop=(8, 8, 8, 11))
        expected = [min(11, *(LENGTHS[key] for key in whole.generate_numbered_batch(n)["keys"])) for n in range(5)]
        assert sizes == expected and len(set(sizes)) > 1


def test_clips_are_shifted_in_space_if_asked() -> None:
    still, moved = _bags().generate_numbered_batch(0), _bags(shift=0.4).generate_numbered_batch(0)
    assert (still["data"] == -3).sum() == 0 and (moved["data"] == -3).sum() > 0  # the background beside the run
    assert moved["data"].shape == still["data"].shape and moved["brain"].sum() < still["brain"].sum()


@pytest.mark.parametrize(("at_once", "count"), [(1, 1), (3, 1), (2, 2), (2, 3)])
def test_every_frame_of_every_run_is_shown_once(at_once: int, count: int) -> None:
    runs = MemoryRuns(LENGTHS)
    shown: dict[tuple[str, int], torch.Tensor] = {}
    for rank in range(count):
        whole = WholeRuns(runs, list(LENGTHS), crop=SIZE, at_once=at_once, rank=rank, count=count)
        for number in range(-(-len(whole.parts) // count)):
            batch = whole.generate_numbered_batch(number)
            assert len(set(batch["keys"])) == 1 and len(batch["keys"]) <= at_once
            for key, place, clip in zip(batch["keys"], batch["places"], batch["data"], strict=True):
                shown[key, place] = clip
    for case, frames in runs.frames.items():
        clips = [clip[0, 0] for (key, _), clip in sorted(shown.items()) if key == case]
        assert np.array_equal(torch.cat(clips, -1).numpy(), frames)
