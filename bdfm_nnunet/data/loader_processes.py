"""Loader processes that outlast the signals of a job, end with their parent, and whose death is one sentence."""

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, popen_fork, process
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.worker_pools import end_with_parent, holding_back_signals

_SECONDS_TO_DIE = 2.0
_CAUSES = {
    "SIGKILL": "most likely for want of memory: lower training.workers if it happens again, and",
    "SIGBUS": "most likely because /dev/shm is full: give the container more (docker run --shm-size), and",
}


class _Launch(popen_fork.Popen):
    """The start of a process which never gets the signals that schedulers send to a whole job.

    PyTorch's workers set their own handlers when they start, over those they were forked with, so ignoring is not
    enough.
    """

    def _launch(self, process_obj: Any) -> None:
        with holding_back_signals():
            super()._launch(process_obj)  # type: ignore[misc]

    def terminate(self) -> None:
        """Kill the process: SIGTERM would not get through either."""
        self.kill()


class _LoaderProcess(process.BaseProcess):
    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: Any) -> _Launch:
        return _Launch(process_obj)


class LoaderContext(context.BaseContext):
    """A multiprocessing context for the workers of a PyTorch `DataLoader`.

    Attributes:
        processes: those that were started.
    """

    _name = "fork"

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[process.BaseProcess] = []
        self._ending: list[process.BaseProcess] = []
        self._told = False

    def Process(self, *args: Any, **settings: Any) -> process.BaseProcess:
        """Make a process, to be started by whoever asks."""
        self.processes.append(_LoaderProcess(*args, **settings))
        return self.processes[-1]

    def check(self) -> None:
        """Raise InputError if the system has ended one of the processes."""
        for each in self.processes:
            if each.exitcode:
                raise InputError(_obituary(each.exitcode), entry="loader-ended")

    def _tell(self, *_: Any) -> None:
        """Check, when a process has died. One death ends the block; a second would be raised in its handling."""
        if not self._told:
            try:
                self.check()
            except InputError:
                self._told = True
                raise

    def _check_for_a_while(self, error: Exception) -> None:
        """Check, after an error that a death may be behind: a connection breaks before the system tells of the end."""
        end = time.monotonic() + _SECONDS_TO_DIE
        self.check()
        while isinstance(error, (OSError, EOFError, RuntimeError)) and time.monotonic() < end:
            time.sleep(0.05)
            self.check()

    def end(self) -> None:
        """End all processes at once, wherever they are."""
        self._ending = [each for each in self.processes if each.is_alive()]
        for each in self._ending:
            each.kill()

    def dead(self) -> list[int]:
        """Return the numbers of the processes that have ended, after a wait for those that were told to."""
        for each in self._ending:
            each.join(_SECONDS_TO_DIE)
        return [each.pid for each in self.processes if each.pid is not None and each.exitcode is not None]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Wait for the processes inside this block; the death of one ends it.

        Outside of such blocks a death changes nothing, so that a step or a checkpoint is never cut off by it.

        Raises:
            InputError: the system has ended one.
        """
        try:
            with _handling_sigchld(self._tell):
                self.check()
                yield
        except Exception as error:
            try:
                self._check_for_a_while(error)  # PyTorch may have said it in its own words
            finally:
                self.end()
            raise


def loader_context() -> LoaderContext | None:
    """Return a separate context for a loader; None where the system's default must do."""
    return LoaderContext() if sys.platform == "linux" else None


@contextmanager
def _handling_sigchld(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def own_sigchld() -> Iterator[None]:
    """Keep whatever answered to the death of children: PyTorch's handler would raise in the middle of anything."""
    with _handling_sigchld(signal.SIG_DFL):
        yield


def start_loader(worker: int) -> None:
    """Prepare a loader process; a `worker_init_fn`."""
    del worker
    if multiprocessing.parent_process() is not None:
        end_with_parent()


def _obituary(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"exit code {code}"
    cause = _CAUSES.get(name, "most likely a fault in a library:")
    return f"a loader process of this training was ended by {name}, {cause} continue with --c from the last checkpoint"
