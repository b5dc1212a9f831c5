"""Two real processes and a real store; one is stopped, or the store dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.process_watching import is_alive

_PATIENCE = 5.0  # seconds; a busy machine has let a healthy process wait for more than one
_PROGRAM = """
import os, sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from bdfm_nnunet.training.heartbeat import Heartbeat

def live(port, rank):
    store = TCPStore("localhost", port, is_master=False, timeout=timedelta(seconds=30))
    heartbeat = Heartbeat(store, rank, 2, interval=0.1, patience=float(sys.argv[2]))
    heartbeat.start()
    os.write(1, b"started\\n")  # in one piece, where print may write the line's end apart and both lines mix

reading, writing = os.pipe()
server = os.fork()
if server == 0:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    os.write(writing, str(store.port).encode())
    time.sleep(100)
    os._exit(0)
port = int(os.read(reading, 9))
second = os.fork()
if second == 0:
    live(port, 1)
    time.sleep(float(sys.argv[1]))
    sys.exit()
print(server, second, flush=True)
live(port, 0)
print("ended", os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]), flush=True)
time.sleep(100)
"""
"""The first process, which forks the store's and the second before it has any thread; its end is told by the first."""


@contextmanager
def _processes(seconds: float = 100) -> Iterator[tuple[Any, int, int]]:
    """The first, and the numbers of the store's and the second, which ends of itself after so many seconds."""
    words = [sys.executable, "-c", _PROGRAM, str(seconds), str(_PATIENCE)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        lines = [first.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
        (pids,) = (line for line in lines if line != "started\n")
        store, second = map(int, pids.split())
        try:
            yield first, store, second
        finally:
            _kill(first.pid, store, second)


def _kill(*pids: int) -> None:
    """End processes, of which some may have ended and been reaped by whoever inherits orphans here."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["process", pytest.param("store stopped", marks=pytest.mark.slow), "store killed"])
def test_silence_is_named(victim: str) -> None:
    with _processes() as (first, store, second):
        time.sleep(2)
        assert first.poll() is None and is_alive(second)
        number = signal.SIGKILL if victim == "store killed" else signal.SIGSTOP
        os.kill(second if victim == "process" else store, number)
        assert first.wait(timeout=60) == 1
        _kill(store, second)  # they hold its output open
        text = first.stderr.read()
    expected = (
        "process 1 of this training has given" if victim == "process" else "the store where the processes have met"
    )
    assert f"bdfm: error: {expected}" in text and "--c" in text


def test_who_ends_of_itself_is_not_missed() -> None:
    with _processes(seconds=1) as (first, _, _):
        assert first.stdout.readline() == "ended 0\n"
        time.sleep(_PATIENCE + 1.5)
        assert first.poll() is None
