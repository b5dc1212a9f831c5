import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training.process_group import ProcessGroup, device_of_process, shares
from tests.forking import run_together


def _meet(rank: int, folder: str) -> None:
    """What two processes hear from one another, and what they are told where they differ."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    peers = ProcessGroup(("save", "stop"))
    heard: list[Any] = [peers.exchange({"save"} if rank == 1 else ()), peers.exchange({"stop"} if rank == 0 else ())]
    heard += [peers.exchange(()), peers.exchange({"save"}), peers.settle({"stop"} if rank == 1 else ())]
    heard += [peers.exchange(()), peers.gather(rank * 10), peers.mean([1.0 + rank, 3.0 + rank], weight=1 + 2 * rank)]
    heard += [peers.mean([float("nan")] if rank else [4.0])]
    peers.agree({"plans": "a", "splits": "b"})
    try:
        peers.agree({"plans": "a", "splits": rank})
    except InputError as error:
        Path(folder, str(rank)).write_bytes(pickle.dumps({"heard": heard, "sentence": str(error)}))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("met")
    run_together(_meet, 2, str(folder))
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in (0, 1)]


def test_all_hear_what_one_wants_at_the_same_step(met: list[dict[str, Any]]) -> None:
    expected = [set(), {"save"}, {"stop"}, set(), {"stop"}, set(), [0, 10], 2.75, 4.0]
    assert [each["heard"] for each in met] == [expected] * 2


def test_processes_that_differ_are_refused_on_all_of_them(met: list[dict[str, Any]]) -> None:
    first, second = (each["sentence"] for each in met)
    assert first == second and first.startswith("process 1 of this training has other splits than process 0: start")


def test_alone_one_hears_oneself_at_once() -> None:
    peers = ProcessGroup(("save",))
    assert (peers.rank, peers.count) == (0, 1)
    assert peers.exchange({"save"}) == peers.settle({"save"}) == {"save"}
    assert peers.gather("a") == ["a"] and peers.mean([1.0, 2.0]) == 1.5
    peers.wait()


@pytest.mark.parametrize(("total", "parts", "expected"), [(9, 4, [3, 2, 2, 2]), (4, 4, [1] * 4), (5, 1, [5])])
def test_shares(total: int, parts: int, expected: list[int]) -> None:
    assert shares(total, parts) == expected


def test_the_device_is_counted_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "13")
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert device_of_process("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert device_of_process("cuda") == torch.device("cuda", 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the scheduler shows each process its own
    assert device_of_process("cuda") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="process 5 of this machine has no GPU of its own, 4 are visible"):
        device_of_process("cuda")
    monkeypatch.delenv("LOCAL_RANK")
    assert device_of_process("cuda") == torch.device("cuda", 0)
