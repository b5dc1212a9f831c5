"""nnU-Net's validation of whole cases; the death of a worker is noticed, and files are written whole or not at all."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, is_full, is_unfinished
from bdfm_nnunet.prediction.case_quality import collect_signs, signs_of, write_sign
from bdfm_nnunet.worker_pools import SteadyContext, ended_by_system, start_worker

AGAIN = "validate again with --val, the training is finished"
_TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
_EVALUATION = "nnunetv2.evaluation.evaluate_predictions"


class _Results:
    """Like `multiprocessing.pool.MapResult`."""

    def __init__(self, futures: Sequence[Future[Any]], workers: int) -> None:
        self._futures, self._workers = futures, workers

    def ready(self) -> bool:
        return all(future.done() for future in self._futures)

    def get(self) -> list[Any]:
        try:
            return [future.result() for future in self._futures]
        except BrokenProcessPool:
            raise _died(self._workers) from None


def _died(workers: int) -> InputError:
    return ended_by_system(workers, f"set nnUNet_def_n_proc to fewer if it happens again, and {AGAIN}")


class ValidationPool:
    """The part of `multiprocessing.Pool` that nnU-Net's validation uses.

    multiprocessing forgets what a worker was at when the system ended it, and nnU-Net waits for that without end. Here
    it is a sentence, all workers end with this process, and signals to the whole job do not reach them. Tensors travel
    as arrays, so that no shared memory is needed.
    """

    def __init__(self, processes: int) -> None:
        self._workers = processes
        self._context = SteadyContext()
        self._executor = ProcessPoolExecutor(processes, mp_context=self._context, initializer=start_worker)
        self._results: list[_Results] = []

    def __enter__(self) -> "ValidationPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._context.end()
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def _pool(self) -> list["ValidationPool"]:
        """An entry for each worker, which nnU-Net asks whether it is alive."""
        return [self] * self._workers

    def is_alive(self) -> bool:
        """Return True, or raise the error of a task that is finished."""
        for results in self._results:
            if results.ready():
                results.get()
        return True

    def starmap_async(self, function: Callable[..., Any], tasks: Iterable[Sequence[Any]]) -> _Results:
        """Begin with `function(*task)` of every task."""
        try:
            futures = [self._executor.submit(function, *map(_as_array, task)) for task in tasks]
        except BrokenProcessPool:
            raise _died(self._workers) from None
        self._results.append(_Results(futures, self._workers))
        return self._results[-1]

    def starmap(self, function: Callable[..., Any], tasks: Iterable[Sequence[Any]]) -> list[Any]:
        """Return `function(*task)` of every task."""
        return self.starmap_async(function, tasks).get()


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def clear_validation(folder: Path) -> None:
    """Remove the summary of an earlier validation, and what killed ones have left, which nnU-Net would score."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == "summary.json" or is_unfinished(path.name):
            path.unlink()


def export_with_sign(
    logits: Any,
    properties: dict[str, Any],
    configuration: Any,
    plans: Any,
    dataset: dict[str, Any],
    output: str,
    *more: Any,
) -> None:
    """Export a validated case, and keep what its probabilities expect of it; the arguments are nnU-Net's."""
    from bdfm_nnunet.prediction.case_workers import export_case  # nnU-Net, which runs of other trainers do without

    export_case(logits, properties, configuration, plans, dataset, output, *more, again=AGAIN)
    regions = plans.get_label_manager(dataset).has_regions
    write_sign(output, signs_of(np.asarray(logits), regions=regions, spacing=configuration.spacing))


@contextmanager
def careful_validation(folder: Path) -> Iterator[None]:
    """Let nnU-Net's validation inside this block use `ValidationPool`, and write each prediction whole or not at all.

    Args:
        folder: where it writes.

    Raises:
        InputError: the system has ended a worker, or the disk is full.
    """
    pools = SimpleNamespace(get_context=lambda method=None: SimpleNamespace(Pool=ValidationPool))
    with (
        _replaced(_TRAINER, multiprocessing=pools, export_prediction_from_logits=export_with_sign),
        _replaced(_EVALUATION, multiprocessing=pools),
    ):
        try:
            yield
            if (folder / "summary.json").is_file():
                collect_signs(folder)
        except OSError as error:
            if not is_full(error):
                raise
            raise cannot_write(Path(error.filename or folder), error, again=AGAIN) from error


@contextmanager
def _replaced(module: str, **names: Any) -> Iterator[None]:
    """Give names of a module other values for the length of a block."""
    place = importlib.import_module(module)
    before = {name: getattr(place, name) for name in names}
    vars(place).update(names)
    try:
        yield
    finally:
        vars(place).update(before)
