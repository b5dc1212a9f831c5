"""Networks of several folds on a device that does not hold all of them; whole predictions are in tests/trainers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.prediction import subject_predictor


@pytest.mark.parametrize(("free", "together"), [(2400, True), (2399, False)])
def test_all_stay_where_their_weights_take_half_of_what_is_free(
    free: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: asked.append(index) or (free, 9**9))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    folds: list[Any] = [SimpleNamespace(network=nn.Linear(10, 10, bias=False)) for _ in range(3)]  # 400 bytes each
    assert subject_predictor._all_fit(folds, "cuda") is together
    assert subject_predictor._all_fit(folds, torch.device("cuda", 1)) is together and asked == [3, 1]
    assert subject_predictor._all_fit(folds[:1], "cuda") and subject_predictor._all_fit(folds, "cpu")
    assert len(asked) == 2


class Moving(nn.Module):
    """A network that notes where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, device: str) -> "Moving":  # type: ignore[override]
        self.places.append(device)
        return self

    def forward(self, bags: Tensor) -> Tensor:
        return bags.flatten(1).mean(1, keepdim=True)


@pytest.mark.parametrize(("stays", "places"), [(True, ["cpu"]), (False, ["cpu", "cpu"])])
def test_a_network_that_does_not_stay_leaves_the_device_after_each_case(stays: bool, places: list[str]) -> None:
    network = Moving()
    fold: Any = SimpleNamespace(
        checkpoint=SimpleNamespace(task={"crop": [4, 4, 4], "overlap": 0.0}), network=network, outputs=()
    )
    images = np.random.default_rng(0).random((1, 4, 4, 8), dtype=np.float32)
    outputs, maps = subject_predictor._member(fold, images, False, "cpu", stays=stays)
    assert network.places == places and maps == [] and outputs.item() == pytest.approx(images.mean(), rel=1e-5)
