"""Pools of processes, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.worker_pools import run_in_processes


def _killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_task_is_done_once(workers: int, ordered: bool) -> None:
    found = list(run_in_processes(range(-9, 0), abs, workers=workers, ordered=ordered))
    assert sorted(found) == list(range(1, 10))
    if ordered:
        assert found == list(range(9, 0, -1))


def test_a_worker_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"ended one of the 2 worker processes.*--workers"):
        list(run_in_processes([1, 2], _killed, workers=2))


SCRIPT = """
import os, sys, time
from bdfm_nnunet.worker_pools import run_in_processes
if __name__ == "__main__":
    print(os.getpid(), flush=True)
    list(run_in_processes([60.0, 60.0], time.sleep, workers=2))
"""


def _session(number: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == number and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are counted in /proc")
def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], start_new_session=True)
    until = time.monotonic() + 60
    while len(_session(parent.pid)) < 4 and time.monotonic() < until:  # itself, a tracker and two workers
        time.sleep(0.05)
    time.sleep(1)
    assert len(_session(parent.pid)) >= 3
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while (left := _session(parent.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
