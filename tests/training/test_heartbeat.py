"""Two real processes and a real store; one is stopped, or the store dies."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

_PROCESS = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from bdfm_nnunet.training.heartbeat import Heartbeat
port, rank, serves, seconds = (int(word) for word in sys.argv[1:])
if serves:
    store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    print(store.port, flush=True)
    time.sleep(100)
store = TCPStore("localhost", port, is_master=False, timeout=timedelta(seconds=30))
heartbeat = Heartbeat(store, rank, 2, interval=0.1, patience=1.0)
heartbeat.start()
print("started", flush=True)
time.sleep(seconds)
"""


def _start(port: int, rank: int = 0, *, serves: bool = False, seconds: int = 100) -> Any:
    words = [sys.executable, "-c", _PROCESS, *map(str, (port, rank, int(serves), seconds))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _processes(seconds: int = 100) -> tuple[Any, Any, Any]:
    store = _start(0, serves=True)
    port = int(store.stdout.readline())
    pair = [_start(port, rank, seconds=seconds if rank else 100) for rank in (0, 1)]
    assert [process.stdout.readline() for process in pair] == ["started\n"] * 2
    return store, *pair


def _end(*processes: Any) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", ["process", "store stopped", "store killed"])
def test_silence_is_named(victim: str) -> None:
    store, first, second = _processes()
    time.sleep(2)
    assert first.poll() is None and second.poll() is None
    target = second if victim == "process" else store
    os.kill(target.pid, signal.SIGKILL if victim == "store killed" else signal.SIGSTOP)
    _, text = first.communicate(timeout=20)
    expected = (
        "process 1 of this training has given" if victim == "process" else "the store where the processes have met"
    )
    assert first.returncode == 1 and f"bdfm: error: {expected}" in text and "--c" in text
    _end(store, second)


def test_who_ends_of_itself_is_not_missed() -> None:
    store, first, second = _processes(seconds=1)
    assert second.wait(20) == 0
    time.sleep(2.5)
    assert first.poll() is None
    _end(store, first)
