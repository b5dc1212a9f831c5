"""The results of a study: study.json, a row for each arm, fraction, seed, case and region or target; study.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.label_subsets import Parts
from bdfm_nnunet.files import write_json
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.reports.study_entries import StudyFacts
from bdfm_nnunet.reports.study_measures import DICE, StudyMeasure, measures_of_targets
from bdfm_nnunet.reports.study_report import write_report
from bdfm_nnunet.results import Cost, RunResult, versions_of, write_result
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_provenance import REPORT, ROWS, study_provenance
from bdfm_nnunet.studies.study_settings import RATE, StudySettings
from bdfm_nnunet.studies.study_tasks import Task, TaskList

KIND = "study"
_WAIT = 60.0


def write_study(tasks: TaskList) -> Path | None:
    """Write the results of the cells that are finished, and return study.md; None where none is.

    Raises:
        InputError: a file cannot be written, or a result is of other settings.
    """
    study = tasks.study
    with hold_lock(study.path / ".results.lock", otherwise=f"another process writes {study.path}: wait", wait=_WAIT):
        finished = {task.name: (task, found) for task in tasks if (found := tasks.result(task)) is not None}
        cells = [(task, found) for task, found in finished.values() if task.kind == "cell"]
        if not cells:
            return None
        rows = [row for task, found in cells for row in rows_of(task, found)]
        order = {arm.name: number for number, arm in enumerate(study.settings.arms)}
        rows.sort(key=lambda row: (study.settings.fractions.index(row["fraction"]), order[row["arm"]], row["seed"]))
        write_json(study.path / ROWS, rows)
        facts = _facts(tasks, finished)
        table = write_report(study.path, rows, facts, _measures(study))
        seconds = sum((found.cost and found.cost.seconds) or 0.0 for _, found in finished.values())
        steps = sum((found.cost and found.cost.steps) or 0 for _, found in finished.values())
        result = RunResult(
            kind=KIND,
            settings=study.settings.as_dict(),
            cost=Cost(seconds=seconds, steps=steps),
            versions=versions_of("nnunetv2", "torch", "numpy", "scipy"),
            provenance=study_provenance(study, [found for _, found in finished.values()]),
            extra={
                "table": [entry.as_dict() for entry in table],
                "warnings": list(facts.warnings),
                "missing_tasks": facts.missing,
                "rows": ROWS,
            },
        )
        write_result(study.path / "result.json", result)
    return study.path / REPORT


def rows_of(task: Task, result: RunResult) -> Iterator[dict[str, Any]]:
    """Yield the rows of a cell: one for each test case and region, or target of subjects."""
    chosen = result.extra["chosen"]
    about = {
        "arm": task.arm.name,
        "fraction": task.fraction,
        "seed": task.seed,
        "train_cases": result.extra["train_cases"],
        "rate": chosen["settings"].get(RATE),
    }
    if result.scores is None:
        loss = None if chosen["score"] is None else -chosen["score"]
        for row in result.extra["predictions"]:
            yield {**about, "validation_loss": loss, "patient": result.extra["patients"][row["case"]], **row}
        return
    for case in result.scores["cases"]:
        of_case = {"case": case["case"], "patient": result.extra["patients"][case["case"]]}
        for region, scores in case["regions"].items():
            yield {**about, "validation_dice": chosen["score"], **of_case, "region": region, **scores}


def _measures(study: StudyFolder) -> list[StudyMeasure]:
    if not study.settings.subject_trainer:
        return [DICE]
    return measures_of_targets([study.targets.columns[name] for name in study.target_names])


def _facts(tasks: TaskList, finished: Mapping[str, tuple[Task, RunResult]]) -> StudyFacts:
    study, settings = tasks.study, tasks.study.settings
    cells = [(task, found) for task, found in finished.values() if task.kind == "cell"]
    chosen: dict[tuple[str, float], list[str]] = {}
    hours: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for task, found in cells:
        place = task.arm.name, task.fraction
        chosen.setdefault(place, []).append(_told(found.extra["chosen"]["settings"]))
        pretraining = sum(_hours(finished[name][1]) for name in task.needs if finished[name][0].kind == "pretraining")
        hours.setdefault(place, []).append((_hours(found), pretraining))
    seen = {f"{task.arm.name}: {found.extra['seen']}" for task, found in cells if found.extra["seen"]}
    diverged = sum(bool(trial.get("note")) for _, found in cells for trial in found.extra["trials"])
    warnings = [*sorted(seen), *([f"{diverged} trainings of the search diverged."] if diverged else [])]
    return StudyFacts(
        title=f"Study of {study.dataset}",
        baselines={arm.name: settings.complete(arm).baseline for arm in settings.arms},
        setup=_setup(tasks, sorted({str(found.extra["device"]) for _, found in finished.values()})),
        warnings=warnings,
        costs={place: (_mean(a for a, _ in each), _mean(b for _, b in each)) for place, each in hours.items()},
        missing=len(tasks) - len(finished),
        chosen={place: "; ".join(each) for place, each in chosen.items()},
    )


def _setup(tasks: TaskList, devices: list[str]) -> list[str]:
    study, settings = tasks.study, tasks.study.settings
    trials = len(settings.trials(settings.arms[0]))
    how = "halving the field at each rung" if settings.halving else "all in full"
    again = "with each seed" if settings.search_seeds == "each" else "with the first seed, for all"
    arms = [settings.complete(arm) for arm in settings.arms if arm.pretrain]
    fitted = " or ".join(dict.fromkeys(study.pretraining_dataset(arm) for arm in arms))
    once = "once a seed" if settings.pretrain_seeds == "each" else "once for all seeds"
    plans = sorted({arm.plans or settings.plans for arm in settings.arms})
    pretrained = f"Arms that the study pre-trains take {_lengths(settings)} steps on {fitted}, {once}."
    return [
        f"Tested on {_where(settings, study.parts)} No patient is on two sides.",
        *_of_targets(study),
        f"Each arm takes {settings.steps} optimiser steps of fine-tuning with every fraction, and tries {trials} "
        f"settings ({how}), {again}.",
        *([pretrained] if any(arm.pretrain for arm in settings.arms) else []),
        f"Plans: {', '.join(plans)}. Device: {', '.join(devices)}.",
    ]


def _of_targets(study: StudyFolder) -> list[str]:
    if not study.settings.subject_trainer:
        return []
    told = f"Learnt: {', '.join(study.target_names)}. Parts and label fractions are stratified by these values."
    chosen = " Settings are chosen by the loss of the validation cases, at the end of the training."
    return [told + chosen * bool(study.settings.validation)]


def _where(settings: StudySettings, parts: Parts) -> str:
    """Return what tests, what chooses and what is for training, in words."""
    first = parts.sides(0)
    where = f"data set {settings.test}" if settings.test is not None else f"{len(first.test)} held-out cases"
    if settings.rotate:
        where = f"{len(first.test)} held-out cases of other patients with each seed (intervals draw the patients)"
    count = len(first.validation)
    chosen = f"{count} validation cases choose the settings" if count else "nothing is chosen"
    return f"{where}; {chosen}, {len(first.train)} cases are for training{' with the first' * settings.rotate}."


def _lengths(settings: StudySettings) -> str:
    """Return the steps of the study's pre-trainings in words, with the arms that take another number."""
    arms = [settings.complete(arm) for arm in settings.arms if arm.pretrain]
    others = [f"{arm.name} {arm.pretrain_steps}" for arm in arms if arm.pretrain_steps != settings.pretrain_steps]
    return f"{settings.pretrain_steps} ({', '.join(others)})" if others else str(settings.pretrain_steps)


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items())


def _hours(result: RunResult) -> float:
    return ((result.cost and result.cost.seconds) or 0.0) / 3600


def _mean(values: Any) -> float:
    found = list(values)
    return float(sum(found) / len(found))
