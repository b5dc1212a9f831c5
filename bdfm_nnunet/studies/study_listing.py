"""The list of a study's tasks: how far each is, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.studies.settings_search import KEPT, rungs
from bdfm_nnunet.studies.study_settings import StudySettings
from bdfm_nnunet.studies.study_tasks import State, Task, TaskList


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A line of the list.

    Attributes:
        number: of the task.
        name: of the task.
        state: how far it is.
        steps: optimiser steps in all of its trainings.
        seconds: that it took, or will take as far as similar tasks tell; None where there are none.
        measured: whether it is done, so that the seconds are measured.
        tflop: arithmetic of the steps, as counted when the data set was planned: for fine-tuning, and more than enough
            for pre-training, which has a smaller decoder; None where it was not counted, as for subjects, whose
            networks have no decoder and see as many crops as an image needs.
    """

    number: int
    name: str
    state: State
    steps: int
    seconds: float | None
    measured: bool
    tflop: float | None = None


def list_tasks(tasks: TaskList) -> list[Listed]:
    """Return all tasks; costs of those to come follow from finished ones, the most similar first."""
    states = {task.name: tasks.state(task) for task in tasks}
    known = dict(_measured(tasks, states))
    settings = tasks.study.settings
    rates: dict[Any, list[float]] = {}
    for task in tasks:
        if task.name in known:
            for likeness in _likenesses(task):
                rates.setdefault(likeness, []).append(known[task.name] / steps_of(task, settings))
    lines = []
    for number, task in enumerate(tasks):
        steps = steps_of(task, settings)
        found = next((rates[likeness] for likeness in _likenesses(task) if likeness in rates), None)
        estimate = None if found is None else steps * sum(found) / len(found)
        measured = task.name in known
        seconds = known[task.name] if measured else estimate
        about = {"number": number, "name": task.name, "state": states[task.name], "steps": steps, "seconds": seconds}
        lines.append(Listed(**about, measured=measured, tflop=_tflop(tasks, task, steps)))
    return lines


def steps_of(task: Task, settings: StudySettings) -> int:
    """Return the optimiser steps of all trainings of a task."""
    if task.kind == "pretraining":
        return task.arm.pretrain_steps
    count = len(settings.trials(task.arm))
    if settings.search_seeds == "first" and task.seed > 0:
        return settings.steps
    total = 0
    for steps in rungs(count, settings.steps, halving=settings.halving):
        total += count * steps
        count = -(-count // KEPT)
    return total


def _tflop(tasks: TaskList, task: Task, steps: int) -> float | None:
    """Return the arithmetic of some steps; the pass backwards costs twice that forwards."""
    pretrains = task.kind == "pretraining"
    if tasks.study.settings.subject_trainer and not pretrains:
        return None
    study, arm = tasks.study, task.arm
    dataset = study.pretraining_dataset(task.arm) if pretrains else study.dataset
    configuration = resolve_configuration(study.plans(dataset, arm.plans), arm.configuration)
    chosen = arm.pretrain_set if pretrains else arm.set
    counted = (configuration.get("costs") or {}).get("forward_gflop_per_sample")
    if counted is None or "patch_size" in chosen:
        return None
    return float(3 * steps * chosen.get("batch_size", configuration["batch_size"]) * counted / 1000)


def _measured(tasks: TaskList, states: dict[str, State]) -> Iterator[tuple[str, float]]:
    for task in tasks:
        if states[task.name] == "done" and (found := tasks.result(task)) is not None:
            yield task.name, float(found.extra["wall_seconds"])


def _likenesses(task: Task) -> list[tuple[str, ...]]:
    arm = task.arm
    own = arm.pretrain if task.kind == "pretraining" else arm.trainer
    return [(task.kind, arm.plans, arm.configuration, own), (task.kind, arm.plans), (task.kind,)]


def listing_text(lines: Sequence[Listed]) -> str:
    """Return the list for a terminal."""
    width = max(len(line.name) for line in lines)
    told = [f"{'task':>4}  {'name':<{width}}  state    steps  cost"]
    for line in lines:
        told.append(f"{line.number:>4}  {line.name:<{width}}  {line.state:<7}  {line.steps:>5}  {_cost(line)}")
    left = [line for line in lines if line.state != "done"]
    states = [line.state for line in lines]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = sum(line.seconds or 0.0 for line in left)
    unknown = [line for line in left if line.seconds is None]
    arithmetic = sum(line.tflop or 0.0 for line in unknown)
    rest = f"about {duration(total)} of one process" if total else "nothing measured yet"
    rest += f", and {len(unknown)} tasks of unknown cost, {arithmetic:.3g} TFLOP of steps" if unknown else ""
    return "\n".join([*told, f"{len(lines)} tasks: {counts}", *([f"left: {rest}"] if left else [])])


def _cost(line: Listed) -> str:
    if line.seconds is not None:
        return f"{'' if line.measured else 'about '}{duration(line.seconds)}"
    return "unknown" if line.tflop is None else f"{line.tflop:.3g} TFLOP"


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
