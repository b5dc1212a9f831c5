"""Running many tasks: in this process, in processes of this machine, or on a Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.worker_pools import run_in_processes

Task = TypeVar("Task")
Result = TypeVar("Result")
REMEDY = "run the same command again with fewer --workers, it continues where it stopped"


def run_all(
    tasks: Sequence[Task],
    function: Callable[[Task], Result],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    option: str = "--scheduler",
) -> Iterator[Result]:
    """Yield `function(task)` of every task, in the order in which they are finished.

    Args:
        tasks: each can be pickled.
        function: of a module that the workers can import.
        workers: processes on this machine; with 1 everything happens in this one.
        scheduler: address of a Dask scheduler, for instance `tcp://10.0.0.1:8786`, whose workers do the tasks then.
        option: of the command that names the scheduler, for messages.

    Raises:
        InputError: the workers were lost, or the scheduler cannot be reached.
    """
    if scheduler is None or not tasks:
        return run_in_processes(tasks, function, workers=workers, remedy=REMEDY)
    return _on_cluster(tasks, function, scheduler, option)


# ---------------------------------------------------------------------------------------------------- a cluster


def _on_cluster(
    tasks: Sequence[Task], function: Callable[[Task], Result], address: str, option: str
) -> Iterator[Result]:
    distributed = _distributed(option)
    try:
        client = distributed.Client(address, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise _lost(address, error, option) from None
    with client:
        futures = client.map(function, tasks, pure=False)
        for future in distributed.as_completed(futures, loop=client.loop):
            yield _result_of(future, address, option)


def _result_of(future: Any, address: str, option: str) -> Any:
    try:
        return future.result()
    except _distributed(option).KilledWorker:
        raise InputError(
            f"the workers of {address} died over and over, most likely for want of memory: give them more, and run the "
            "same command again, it continues where it stopped"
        ) from None
    except ImportError as error:
        raise InputError(
            f"the workers of {address} cannot do the work ({error}): install this bdfm-nnunet in their environment"
        ) from None
    except CancelledError as error:
        raise _lost(address, error, option) from None


def _lost(address: str, error: BaseException, option: str) -> InputError:
    return InputError(
        f"the Dask scheduler {address} cannot be reached ({type(error).__name__}): start it or correct {option}, "
        "and run the same command again"
    )


def _distributed(option: str) -> Any:
    try:
        import distributed
    except ImportError:
        raise InputError(
            f'{option} needs the package distributed, which is not installed: run `pip install "bdfm-nnunet[cluster]"`'
        ) from None
    return distributed
