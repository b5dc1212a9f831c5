"""Running the tasks of a study: here, in processes of this machine, one by one, or on a Dask cluster.

Whoever runs a task holds its lock, and does first, or waits for, what it needs: any number of processes on any machines
that share the folder may run tasks of one study in any order.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bdfm_nnunet.dataset_conversion.writing.scheduling import run_all
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.locks import lock_if_free
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_tasks import FAILURE, LOCK, Task, TaskList

logger = logging.getLogger(__name__)
_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """A task to run, as it travels to other processes.

    Attributes:
        out: folder of the study.
        task: name of the task.
        device: "cpu", "cuda", "mps", or None for the fastest there is.
        keep_models: whether checkpoints and predictions of cells stay.
        wait: whether to wait where another process runs it; what it needs is waited for in any case.
    """

    out: Path
    task: str
    device: str | None = None
    keep_models: bool = False
    wait: bool = True


@dataclass(frozen=True)
class Report:
    """What became of a task.

    Attributes:
        task: its name.
        state: how far it is now.
        error: why it failed.
    """

    task: str
    state: Literal["done", "running", "failed"]
    error: str = ""


def run_order(order: Order) -> Report:
    """Run a task, and first those that it needs; an error becomes part of the report.

    A task that is done is left as it is; one that failed is tried again.
    """
    return _run(order, TaskList(StudyFolder.open(order.out)))


def _run(order: Order, tasks: TaskList) -> Report:
    task = tasks.named(order.task)
    for name in task.needs:
        report = _run(replace(order, task=name, wait=True), tasks)
        if report.state != "done":
            error = f"{name} failed: {report.error}" if report.error else ""
            return Report(task.name, report.state, error)
    while True:
        with lock_if_free(tasks.folder(task) / LOCK) as mine:
            if mine:
                return _run_locked(order, tasks, task)
        if not order.wait:
            return Report(task.name, "running")
        time.sleep(_POLL_SECONDS)


def _run_locked(order: Order, tasks: TaskList, task: Task) -> Report:
    failure = tasks.folder(task) / FAILURE
    try:
        if tasks.result(task) is not None:
            return Report(task.name, "done")
        from bdfm_nnunet.studies.task_running import TaskRunner  # nnU-Net, for seconds
        from bdfm_nnunet.training.calibration import find_device

        logger.info("%s begins", task.name)
        failure.unlink(missing_ok=True)
        TaskRunner(tasks, find_device(order.device), keep_models=order.keep_models).run(task)
    except Exception as error:  # of any kind: the other tasks of hours of work go on
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        logger.error("%s failed: %s", task.name, reason, exc_info=not isinstance(error, InputError))
        write_json(failure, {"error": reason})
        return Report(task.name, "failed", reason)
    return Report(task.name, "done")


def run_apart(order: Order) -> Report:
    """Run a task in a process of its own, as a worker of a cluster does: trainings change the environment."""
    command = [sys.executable, "-m", "bdfm_nnunet.cli", "study", "-o", str(order.out), "--task", order.task]
    command += ["--device", order.device] if order.device else []
    command += ["--keep-models"] if order.keep_models else []
    ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if ended.returncode == 0:
        return Report(order.task, "done")
    lines = [line for line in ended.stderr.splitlines() if line.strip()] or [f"exit code {ended.returncode}"]
    return Report(order.task, "failed", lines[-1].removeprefix("bdfm: error: "))


def run_study(
    study: StudyFolder,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    device: str | None = None,
    keep_models: bool = False,
) -> list[Report]:
    """Run all tasks of a study that are not done, and return what became of every task.

    With one job all happens in this process, which imports nnU-Net once; each of several jobs does so once.

    Args:
        study: the study, prepared.
        jobs: processes on this machine.
        scheduler: address of a Dask scheduler whose workers run the tasks, each in a process of its own.
        device: as in `Order`.
        keep_models: as in `Order`.

    Raises:
        InputError: workers were lost, or the scheduler cannot be reached.
    """
    tasks = TaskList(study)
    missing = [task for task in tasks if tasks.result(task) is None]
    alone = jobs == 1 and scheduler is None
    # one by one, the whole of the first seed comes first
    names = [task.name for task in (sorted(missing, key=lambda task: task.seed) if alone else missing)]
    orders = [Order(out=study.path, task=name, device=device, keep_models=keep_models, wait=False) for name in names]
    if jobs > 1:
        _share_threads(jobs)
    reports = {}
    for report in run_all(
        orders, run_order if scheduler is None else run_apart, workers=jobs, scheduler=scheduler, option="--dask"
    ):
        reports[report.task] = report
    for name in _running(reports.values()):  # elsewhere; they are waited for
        reports[name] = run_order(Order(out=study.path, task=name, device=device, keep_models=keep_models))
    return [reports.get(task.name, Report(task.name, "done")) for task in tasks]


def _running(reports: Iterable[Report]) -> Sequence[str]:
    return [report.task for report in reports if report.state == "running"]


def _share_threads(jobs: int) -> None:
    """Let the trainings of several processes share the cores, unless the user has said how many each takes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
