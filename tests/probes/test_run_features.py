"""One vector per run: every place of every frame counts once, or by its brain."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.data.clip_batches import run_clips
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.probes.run_features import check_runs, vectors_of_runs
from tests.memory_runs import MemoryRuns
from tests.networks.tiny_storm import tiny_storm
from tests.networks.zoo import network

RUNS = MemoryRuns({"a": 10, "b": 3})


def _maps(case: str, stage: int) -> torch.Tensor:
    """Feature maps of all frames of a run, (C, *places, T)."""
    frames, encoder = RUNS.frames[case], tiny_storm()
    with torch.no_grad():
        clips = [torch.from_numpy(frames[..., at : at + 4])[None, None] for at in range(0, frames.shape[3], 4)]
        return torch.cat([encoder(clip)[stage][0] for clip in clips], -1)


@pytest.mark.parametrize("case", ["a", "b"])
def test_vectors_are_means_over_all_frames_of_all_clips(case: str) -> None:
    vectors = vectors_of_runs(encoder_of(tiny_storm()), [0, 1], ["mean", "max"], brain=False, device="cpu")
    mean, largest = vectors(run_clips(RUNS, case, (8, 8, 8, 4)))
    maps = [_maps(case, stage).flatten(1) for stage in (0, 1)]
    assert np.allclose(mean, torch.cat([each.mean(1) for each in maps]), atol=1e-6)
    assert np.allclose(largest, torch.cat([each.amax(1) for each in maps]), atol=1e-6)


def test_the_brain_alone_counts_if_asked() -> None:
    vectors = vectors_of_runs(encoder_of(tiny_storm()), [1], ["mean"], brain=True, device="cpu")
    (mean,) = vectors(run_clips(RUNS, "a", (8, 8, 8, 4)))
    assert np.allclose(mean, _maps("a", 1)[:, :1].flatten(1).mean(1), atol=1e-6)  # half of the places along x


def _found(patch: list[int], spacing: tuple[float, ...]) -> Any:
    return SimpleNamespace(configuration={"patch_size": patch}, folder=Path("Dataset700_X"), spacing=spacing)


def test_encoders_of_other_images_and_rhythms_are_refused() -> None:
    here, storm = (2.0, 2.0, 2.0, 0.8), encoder_of(tiny_storm())
    check_runs(_found([8, 8, 8, 4], here), storm, (), "a.pth")
    check_runs(_found([8, 8, 8, 4], here), storm, (2.0, 2.0, 2.0, 0.81), "a.pth")
    with pytest.raises(InputError, match="3-D network, Dataset700_X holds runs"):
        check_runs(_found([8, 8, 8, 4], here), encoder_of(network("resenc", 1)), (), "a.pth")
    with pytest.raises(InputError, match="4-D network, Dataset700_X holds images"):
        check_runs(_found([8, 8, 8], here[:3]), storm, (), "a.pth")
    with pytest.raises(InputError, match=r"frames of 2x2x2x2 \(mm, s\), Dataset700_X has 2x2x2x0\.8"):
        check_runs(_found([8, 8, 8, 4], here), storm, (2.0, 2.0, 2.0, 2.0), "a.pth")
