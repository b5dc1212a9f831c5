"""Several processes for a test, at the cost of one import of torch: a new process imports it and forks them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PROGRAM = """
import importlib, os, signal, sys
module, function, count, *arguments = sys.argv[1:]
work = getattr(importlib.import_module(module), function)
if "torch" in sys.modules:
    import torch._dynamo  # DistributedDataParallel does, in every process
pids = []
for rank in range(int(count)):
    pids.append(os.fork())
    if pids[-1] == 0:
        work(rank, *arguments)
        sys.exit()
for _ in pids:
    _, status = os.wait()
    if status:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        sys.exit(f"one of {count} processes ended with {os.waitstatus_to_exitcode(status)}")
"""


def run_together(work: Callable[..., None], count: int, *arguments: str) -> None:
    """Run `work(rank, *arguments)`, a function of a module, in this many processes to their end.

    They are forked from a process that has imported the module and done nothing with it: the process of the tests
    itself may have threads, which no fork survives.

    Raises:
        AssertionError: one of them failed; the others were killed.
    """
    words = [work.__module__, work.__qualname__, str(count), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
