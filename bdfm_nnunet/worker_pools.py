"""Worker processes that share the work on many cases and end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import context, process, resource_tracker
from typing import Any, TypeVar

import SimpleITK as sitk

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")
FEWER = "run the command again with fewer --workers"
_OF_A_JOB = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)}


def run_in_processes(
    tasks: Sequence[Task],
    function: Callable[[Task], Result],
    *,
    workers: int,
    ordered: bool = False,
    remedy: str = FEWER,
) -> Iterator[Result]:
    """Yield `function(task)` for every task; with at most one worker everything runs in this process.

    Args:
        tasks: tasks that can be pickled.
        function: function of a module that the workers can import.
        workers: number of processes.
        ordered: whether to yield results in the order of the tasks; otherwise in the order in which they finish.
        remedy: remedy in the message if the system ends a worker.

    Raises:
        InputError: the system ended a worker, or `function` raised it.

    Example:
        >>> list(run_in_processes([1, 2, 3], str, workers=0))
        ['1', '2', '3']
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        return map(function, tasks)
    run = _in_order if ordered else _as_finished
    return run(tasks, function, workers, remedy)


def _as_finished(
    tasks: Sequence[Task], function: Callable[[Task], Result], workers: int, remedy: str
) -> Iterator[Result]:
    waiting = iter(tasks)
    with worker_pool(workers, remedy=remedy) as pool:
        running = {pool.submit(function, task) for task in islice(waiting, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(function, task) for task in islice(waiting, len(finished))}
            for future in finished:
                yield future.result()


def _in_order(tasks: Sequence[Task], function: Callable[[Task], Result], workers: int, remedy: str) -> Iterator[Result]:
    with worker_pool(workers, remedy=remedy) as pool:
        yield from pool.map(function, tasks)


@contextmanager
def worker_pool(workers: int, *, remedy: str = FEWER) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of new processes with one thread each; they end with this process in any case.

    Raises:
        InputError: the system ended a worker.
    """
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker)
    try:
        yield pool
    except BrokenProcessPool:
        raise ended_by_system(workers, remedy) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ended_by_system(workers: int, remedy: str) -> InputError:
    """Return the error of a worker that the system ended."""
    return InputError(
        f"the system ended one of the {workers} worker processes, most likely for want of memory: {remedy}"
    )


def start_worker() -> None:
    """Prepare a worker: ignore Ctrl-C, which the parent handles, end with the parent, and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def end_with_parent() -> None:
    """Let this process, started by multiprocessing, end as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        while parent.is_alive() and os.getppid() == parent.pid:
            parent.join(1)  # siblings that were forked later hold the pipe open that tells of its end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ---------------------------------------------------------------------------------------------- signals to a whole job


@contextmanager
def holding_back_signals() -> Iterator[None]:
    """Permanently block the signals that schedulers send to a whole job in processes started inside this block.

    A signal mask is inherited and holds from the first instruction on, whatever handlers a library sets.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_JOB)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start multiprocessing's resource tracker early: starting it unblocks signals, and SIGUSR1 would end it."""
    if os.name == "posix":
        with holding_back_signals():
            resource_tracker.ensure_running()


class _SteadyProcess(context.SpawnProcess):
    def start(self) -> None:
        _start_tracker()
        with holding_back_signals():
            super().start()

    def terminate(self) -> None:
        """Kill the process, which blocks SIGTERM."""
        self.kill()


class SteadyContext(context.SpawnContext):
    """A multiprocessing context whose processes survive the signals that a scheduler sends to a whole job.

    Attributes:
        processes: processes that were made.
    """

    def __init__(self) -> None:
        super().__init__()
        _start_tracker()
        self.processes: list[process.BaseProcess] = []

    def Process(self, *args: Any, **settings: Any) -> process.BaseProcess:  # type: ignore[override]
        """Make a process without starting it."""
        self.processes.append(_SteadyProcess(*args, **settings))
        return self.processes[-1]

    def end(self) -> None:
        """Kill all processes at once."""
        for each in self.processes:
            if each.is_alive():
                each.kill()
