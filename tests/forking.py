"""Several processes for a test, at the cost of one import of torch for all tests of a session.

A server imports what is asked for and does nothing with it, so that it has no threads, and forks a process for each
request, which forks the ranks: the process of the tests itself may have threads, which no fork survives.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SERVER = """
import importlib, json, os, signal, sys

def run_ranks(work, count, arguments):
    pids = []
    for rank in range(count):
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

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    request = json.loads(line)
    module = importlib.import_module(request["module"])
    if "torch" in sys.modules:
        import torch._dynamo  # DistributedDataParallel does, in every process
    pid = os.fork()
    if pid == 0:
        os.setsid()
        out = os.open(request["output"], os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        run_ranks(getattr(module, request["function"]), request["count"], request["arguments"])
        sys.exit()
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
"""


@functools.cache
def _server() -> Any:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", _SERVER], cwd=Path(__file__).parents[1], **pipes)


def run_together(work: Callable[..., None], count: int, *arguments: str) -> None:
    """Run `work(rank, *arguments)`, a function of a module, in this many processes to their end.

    Raises:
        AssertionError: one of them failed; the others were killed.
    """
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        request = {
            "module": work.__module__,
            "function": work.__qualname__,
            "count": count,
            "arguments": arguments,
            "environment": dict(os.environ),
            "output": output.name,
        }
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        if not code:  # what it could not import is told where the tests tell theirs
            _server.cache_clear()
        assert code == "0\n", output.read()[-4000:] or f"the server of {work.__module__} ended"
