"""Real workers of PyTorch's loader, real signals."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.data.batch_streams import batches
from bdfm_nnunet.data.loader_processes import LoaderContext, own_sigchld
from bdfm_nnunet.errors import InputError
from tests.limits import largest_file
from tests.process_watching import until


class Slow:
    """Batches as nnU-Net's loaders give them: tensors and lists of tensors."""

    def __init__(self, seconds: float = 0.01, size: int = 10) -> None:
        self.seconds, self.size = seconds, size

    def generate_train_batch(self) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"data": torch.rand(self.size), "target": [torch.ones(self.size)], "keys": ["a"]}


@pytest.fixture(autouse=True)
def others() -> set[BaseProcess]:
    """Processes that earlier tests of this process have not ended."""
    gc.collect()
    return set(multiprocessing.active_children())


def _own(others: set[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_to_all_do_not_reach_loaders(number: signal.Signals, others: set[BaseProcess]) -> None:
    """Workers that have just been forked and those at work, as where a scheduler ends the whole job."""
    loaded = batches(Slow(), 1, numbers=range(40), workers=2)
    for _ in range(4):
        for child in _own(others):
            assert child.pid is not None
            os.kill(child.pid, number)
        for _ in range(10):
            next(loaded)
    assert next(loaded, None) is None


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "want of memory"), (signal.SIGSEGV, "a library")])
def test_the_death_of_a_loader_is_a_sentence(number: signal.Signals, cause: str, others: set[BaseProcess]) -> None:
    loaded = batches(Slow(), 1, numbers=range(10_000), workers=2)
    next(loaded)
    children = _own(others)
    assert children[0].pid is not None
    os.kill(children[0].pid, number)
    time.sleep(0.5)  # whoever is busy with something else is not disturbed
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"ended by {number.name}, .*{cause}.* --c") as raised:
        for _ in loaded:
            pass
    assert "\n" not in str(raised.value) and time.monotonic() - began < 10
    assert until(lambda: not any(child.is_alive() for child in children))


def test_deaths_at_any_moment_and_loaders_after_them(others: set[BaseProcess]) -> None:
    """A connection to the dead breaks before the system tells of it; the next loader may lie at the same address."""
    for _ in range(8):
        loaded = batches(Slow(), 1, numbers=range(10_000), workers=1)
        next(loaded)
        (child,) = _own(others)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(InputError, match="ended by SIGKILL"):
            for _ in loaded:
                pass
        del loaded


def test_a_second_death_does_not_disturb_what_the_first_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system ends all loaders: the second dies while the first death is told."""
    context, undisturbed = LoaderContext(), []
    children = [context.Process(target=time.sleep, args=(100,)) for _ in range(2)]
    for child in children:
        child.start()
    told = context._check_for_a_while

    def tell(error: Exception) -> None:
        children[1].kill()
        children[1].join()
        time.sleep(0.2)
        undisturbed.append(True)
        told(error)

    monkeypatch.setattr(context, "_check_for_a_while", tell)
    with pytest.raises(InputError, match="ended by SIGKILL"), context.watched():
        children[0].kill()
        time.sleep(20)
    assert undisturbed and not any(child.is_alive() for child in children)


def test_a_death_while_the_trainer_waits(others: set[BaseProcess]) -> None:
    """The trainer must not wait for a batch that nobody makes any more."""
    loaded = batches(Slow(seconds=100), 1, numbers=range(10), workers=1)
    (child,) = _own(others)
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -KILL {child.pid}"])
    began = time.monotonic()
    with pytest.raises(InputError, match="--c"):
        next(loaded)
    assert time.monotonic() - began < 20
    killer.wait()


def test_a_batch_that_finds_no_shared_memory_is_a_sentence() -> None:
    with (
        largest_file(100_000),
        pytest.raises(InputError, match=r"/dev/shm has .* free: lower training.workers.*--shm-"),
    ):
        next(batches(Slow(size=1_000_000), 1, numbers=range(4), workers=1))


def _files_of(pids: set[int | None]) -> list[str]:
    """What is in shared memory by names that PyTorch gives there."""
    return [path.name for pid in pids for path in Path("/dev/shm").glob(f"torch_{pid}_*")]


def test_nothing_is_left_in_shared_memory(others: set[BaseProcess]) -> None:
    """Neither by a batch that found no room nor by loaders that are killed in the middle of their work."""
    pids = set()
    with largest_file(100_000), pytest.raises(InputError, match="free: lower"):
        loaded = batches(Slow(size=1_000_000), 1, numbers=range(4), workers=1)
        pids |= {child.pid for child in _own(others)}
        next(loaded)
    for _ in range(3):
        loaded = batches(Slow(seconds=0.0, size=100_000), 1, numbers=range(10_000), workers=2)
        pids |= {child.pid for child in _own(others)}
        for _ in range(20):
            next(loaded)
        for child in _own(others):
            child.kill()
        with pytest.raises(InputError, match="ended by SIGKILL"):
            for _ in loaded:
                pass
    assert len(pids) >= 7 and until(lambda: not _files_of(pids))


def test_a_file_of_a_killed_loader_is_removed(others: set[BaseProcess]) -> None:
    """It may be killed between making a file and taking its name away; the file is made here, as that is rare."""
    loaded = batches(Slow(seconds=0.0), 1, numbers=range(10_000), workers=1)
    next(loaded)
    (child,) = _own(others)
    left = Path("/dev/shm") / f"torch_{child.pid}_1_0"
    left.write_bytes(b"half")
    child.kill()
    with pytest.raises(InputError, match="ended by SIGKILL"):
        for _ in loaded:
            pass
    assert not left.exists()


_ALONE = """
import multiprocessing, sys
from bdfm_nnunet.data.batch_streams import batches
from tests.data.test_loader_processes import Slow
loaders = [batches(Slow(seconds=seconds), 1, numbers=range(10_000), workers=2) for seconds in (0.01, 100)]
next(loaders[0])
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
while True:
    next(loaders[0])
"""


def test_loaders_end_with_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _ALONE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4
        process.kill()
    assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_system_without_sigchld_has_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGCHLD")  # Windows
    with own_sigchld():
        assert not hasattr(signal, "SIGCHLD")
