from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from torch import Tensor

from bdfm_nnunet.data import batch_streams
from bdfm_nnunet.data.batch_streams import batches, reseed, seeded
from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.errors import InputError
from tests.data.conftest import PATCH


class Plain:
    """A source as nnU-Net's loaders are: images in memory of their own, several targets."""

    def generate_train_batch(self) -> dict[str, Any]:
        values = [torch.rand(2, 3), np.random.rand(), torch.rand(1)]  # noqa: NPY002
        return {"data": values[0], "target": values[1:], "keys": ["a"]}


class Filling:
    """Each batch holds one random number everywhere."""

    shape = (2, 1, 4, 4)

    def generate_train_batch(self) -> dict[str, Any]:
        data = torch.empty(self.shape)
        return {"data": data, **self.fill(data)}

    def fill(self, data: Tensor) -> dict[str, Any]:
        data[:] = torch.rand(())
        return {"keys": [f"{float(data.flatten()[0]):.6f}"]}


def _listed(source: Any, numbers: Any, workers: int = 0, keys: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    return list(batches(source, *keys, numbers=numbers, workers=workers))


@pytest.mark.parametrize("source", [Plain(), Filling()])
def test_a_batch_depends_on_keys_and_number_alone(source: Any) -> None:
    whole = _listed(source, range(9))
    assert len({float(batch["data"].flatten()[0]) for batch in whole}) == 9
    for again in (_listed(source, range(9), workers=1), _listed(source, range(9), workers=2)):
        assert len(again) == 9
        for one, other in zip(whole, again):
            assert torch.equal(one["data"], other["data"]) and one["keys"] == other["keys"]
    for number, batch in zip((7, 2, 7), _listed(source, (7, 2, 7), workers=1)):
        assert torch.equal(batch["data"], whole[number]["data"])
    assert not torch.equal(_listed(source, [0], keys=(1, 3))[0]["data"], whole[0]["data"])


def test_batches_survive_those_that_come_after() -> None:
    """The shared memory that brings them is used again."""
    kept = _listed(Filling(), range(40), workers=2)
    for batch in kept:
        assert batch["keys"] == [f"{float(batch['data'].flatten()[0]):.6f}"]
        assert (batch["data"] == batch["data"].flatten()[0]).all()
        assert not batch["data"].is_shared()
    assert len({batch["keys"][0] for batch in kept}) == 40


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    _listed(Filling(), range(3))
    assert torch.equal(torch.rand(3), expected)


def test_seeded_leaves_devices_alone_reseed_sets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the noise of a step on a GPU would depend on whether batches are drawn in the same process."""
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    with seeded(1, 2):
        inside = torch.rand(2)
    assert not calls
    reseed(1, 2)
    assert torch.equal(torch.rand(2), inside) and len(calls) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_a_worker_is_one_sentence(preprocessed: Path, workers: int) -> None:
    dataset = nnUNetDatasetBlosc2(str(preprocessed))
    for path in preprocessed.glob("*.b2nd"):
        path.unlink()
    source = UnlabelledCrops(dataset, batch_size=1, patch_size=PATCH)
    with pytest.raises(InputError) as raised:
        _listed(source, range(2), workers)
    assert str(raised.value).startswith("case case_") and "\n" not in str(raised.value)


def test_too_little_shared_memory_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batch_streams, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(batch_streams.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 << 20}))

    class Large(Filling):
        shape = (2, 1, 128, 128, 128)

    with pytest.raises(InputError, match=r"2 workers need 112 MiB .* has 64 MiB free: lower training.workers"):
        batches(Large(), 0, numbers=range(4), workers=2)
    batches(Large(), 0, numbers=range(4), workers=0)
