"""Does many tasks: here, in processes of this machine, or on a Dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import SimpleITK as sitk

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def do_all(
    tasks: Sequence[Task], function: Callable[[Task], Result], *, workers: int = 1, scheduler: str | None = None
) -> Iterator[Result]:
    """Yields `function(task)` of every task, in the order in which they are finished.

    Args:
        tasks: each can be pickled.
        function: of a module that the workers can import.
        workers: processes on this machine; with 1 everything happens in this one.
        scheduler: address of a Dask scheduler, for instance `tcp://10.0.0.1:8786`, whose workers do the tasks then.

    Raises:
        InputError: the workers were lost, or the scheduler cannot be reached.
    """
    workers = min(workers, len(tasks))
    if not tasks:
        return iter(())
    if scheduler is not None:
        return _on_cluster(tasks, function, scheduler)
    return map(function, tasks) if workers == 1 else _in_processes(tasks, function, workers)


# ------------------------------------------------------------------------------------------------- this machine


def _in_processes(tasks: Sequence[Task], function: Callable[[Task], Result], workers: int) -> Iterator[Result]:
    waiting = iter(tasks)
    with _pool(workers) as pool:
        try:
            running = {pool.submit(function, task) for task in islice(waiting, 2 * workers)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(function, task) for task in islice(waiting, len(finished))}
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise InputError(
                f"the system ended one of the {workers} worker processes, most likely for want of memory: run the same "
                "command again with fewer --workers, it continues where it stopped"
            ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """The parent alone answers to Ctrl-C, its death ends the worker, and each worker keeps to one processor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ---------------------------------------------------------------------------------------------------- a cluster


def _on_cluster(tasks: Sequence[Task], function: Callable[[Task], Result], address: str) -> Iterator[Result]:
    distributed = _distributed()
    try:
        client = distributed.Client(address, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise _lost(address, error) from None
    with client:
        futures = client.map(function, tasks, pure=False)
        for future in distributed.as_completed(futures, loop=client.loop):
            yield _result_of(future, address)


def _result_of(future: Any, address: str) -> Any:
    try:
        return future.result()
    except _distributed().KilledWorker:
        raise InputError(
            f"the workers of {address} died over and over, most likely for want of memory: give them more, and run the "
            "same command again, it continues where it stopped"
        ) from None
    except ImportError as error:
        raise InputError(
            f"the workers of {address} cannot do the work ({error}): install this bdfm-nnunet in their environment"
        ) from None
    except CancelledError as error:
        raise _lost(address, error) from None


def _lost(address: str, error: BaseException) -> InputError:
    return InputError(
        f"the Dask scheduler {address} cannot be reached ({type(error).__name__}): start it or correct --scheduler, "
        "and run the same command again"
    )


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise InputError(
            "--scheduler needs the package distributed, which is not installed: run "
            '`pip install "bdfm-nnunet[cluster]"`'
        ) from None
    return distributed
