"""Running one task of a study: pre-training, or the search and the test of a cell."""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.plans.variants import derive
from bdfm_nnunet.results import (
    Cost,
    Provenance,
    RunResult,
    Session,
    combined,
    read_result,
    versions_of,
    write_result,
)
from bdfm_nnunet.results.run_result import SOFTWARE
from bdfm_nnunet.studies.arm_training import FINAL, DivergedError, Training, train
from bdfm_nnunet.studies.measured_cases import MeasuredCases
from bdfm_nnunet.studies.predicted_subjects import PredictedSubjects
from bdfm_nnunet.studies.scored_cases import cases_seen, held_out_set, patients_of, validation_set
from bdfm_nnunet.studies.segmented_cases import SegmentedCases
from bdfm_nnunet.studies.settings_search import Outcome, Trial, search
from bdfm_nnunet.studies.study_settings import Arm, lengths
from bdfm_nnunet.studies.study_tasks import KIND, PREDICTIONS, RESULT, Task, TaskList
from bdfm_nnunet.used_devices import used_device

logger = logging.getLogger(__name__)

TRIAL = "study_trial"
_VARIANT = "study"
_LONG_EPOCH = 250
_IDENTITY = "task.json"


class TaskRunner:
    """The work of the tasks of a study.

    Args:
        tasks: of the study.
        device: where networks run.
        keep_models: whether the checkpoint and the test predictions of each cell stay.
    """

    def __init__(self, tasks: TaskList, device: torch.device, *, keep_models: bool = False) -> None:
        self.tasks, self.study = tasks, tasks.study
        self.device, self.keep_models = device, keep_models
        self._device = used_device(device)
        kind = PredictedSubjects if self.study.settings.subject_trainer else SegmentedCases
        self.measured: MeasuredCases = kind(self.study, device)

    def run(self, task: Task) -> None:
        """Do a task whose needs are done, or go on with it, and write its result.

        Raises:
            InputError: it cannot be done.
        """
        folder = self.tasks.folder(task)
        _check_identity(folder, task)
        result = self._pretrain(task) if task.kind == "pretraining" else self._cell(task)
        write_result(folder / RESULT, result, page=False)
        self._clean(task)

    def _clean(self, task: Task) -> None:
        """Remove what no later task needs."""
        for path in self.tasks.folder(task).iterdir():
            of_trials = path.name.startswith("trial_") and path.is_dir()
            if task.kind == "cell" and (of_trials or path.name == PREDICTIONS) and not self.keep_models:
                shutil.rmtree(path)

    def _training(self, task: Task, folder: Path, settings: Mapping[str, Any], **what: Any) -> Training:
        arm, dataset = task.arm, what["dataset"]
        plans = self.study.plans(dataset, arm.plans)
        plans["configurations"][_VARIANT] = derive(plans, arm.configuration, settings)
        return Training(
            preprocessed=self.study.preprocessed,
            plans=plans,
            configuration=_VARIANT,
            dataset_json=self.study.dataset_json(dataset),
            folder=folder,
            device=self.device,
            **what,
        )

    # --- pre-training -------------------------------------------------------------------------------------------

    def _pretrain(self, task: Task) -> RunResult:
        training = self._training(
            task,
            self.tasks.folder(task) / "pretraining",
            pretraining_settings(task),
            dataset=self.study.pretraining_dataset(task.arm),
            trainer=task.arm.pretrain,
            fold=0 if task.arm.pretrain_on else self.study.pretraining_fold(task.seed),
            weights="none",
        )
        began = time.monotonic()
        fold = train(training)
        summary = read_result(fold / "pretraining_summary.json", kind="pretraining")
        about = {
            "checkpoint": str((fold / FINAL).relative_to(self.study.path)),
            "monitors": dict(summary.extra),
            "wall_seconds": time.monotonic() - began,
            "device": self._device.name,
        }
        return _result(task, curves=summary.curves, cost=summary.cost, provenance=summary.provenance, extra=about)

    def _weights(self, task: Task) -> str:
        arm = task.arm
        if arm.pretrain:
            found = self.tasks.result(self.tasks.named(task.needs[0]))
            assert found is not None
            return str(self.study.path / found.extra["checkpoint"])
        return self.study.weights[arm.weights]["path"] if arm.weights != "none" else "none"

    # --- a cell -------------------------------------------------------------------------------------------------

    def _cell(self, task: Task) -> RunResult:
        settings = self.study.settings
        trials = settings.trials(task.arm)
        if settings.search_seeds == "first" and task.seed > 0:
            trials = [self._chosen_first(task)]
        best, told = search(
            trials, lambda trial: self._trial(task, trial), steps=settings.steps, halving=settings.halving
        )
        if best is None:
            raise InputError(f"every training of {task.name} diverged ({told[0].note}): give lower rates")
        return self._test(task, best, told)

    def _chosen_first(self, task: Task) -> dict[str, Any]:
        found = self.tasks.result(self.tasks.named(task.needs[-1]))
        assert found is not None
        return dict(found.extra["chosen"]["settings"])

    def _trial(self, task: Task, trial: Trial) -> Outcome:
        path = _trial_file(self.tasks.folder(task), trial)
        if not path.is_file():
            self._do_trial(task, trial, path.with_suffix(""))
        found = read_result(path, kind=TRIAL)
        assert found.cost is not None
        told = {name: found.extra[name] for name in ("score", "note", "wall_seconds")}
        return Outcome(trial=trial, seconds=found.cost.seconds or 0.0, **told)

    def _do_trial(self, task: Task, trial: Trial, place: Path) -> None:
        logger.info("%s: %s, %d steps", task.name, _told(trial.settings), trial.steps)
        began, note, found, cost, provenance = time.monotonic(), "", None, None, None
        training = self._finetuning(task, trial, place)
        try:
            fold = train(training)
            summary = read_result(fold / "training_summary.json")
            cost, provenance = summary.cost, combined(summary.provenance)
            cases = validation_set(self.study, task.arm, task.seed)
            if cases.cases:
                found = self.measured.validated(fold, cases, place / "validation")
        except DivergedError as error:
            note = str(error).partition(",")[0]
        wall = time.monotonic() - began
        about = {"score": found and found.choice, "note": note, "wall_seconds": wall, **(found.extra if found else {})}
        what: dict[str, Any] = {"trainer": task.arm.trainer, "settings": {"task": task.name, **asdict(trial)}}
        what |= {"scores": found and found.scores, "cost": cost or Cost(seconds=wall, steps=trial.steps)}
        what |= {"provenance": provenance or Provenance(sessions=[{"hours": wall / 3600, "device": self._device.name}])}
        write_result(place.with_suffix(".json"), RunResult(kind=TRIAL, extra=about, **what), page=False)

    def _finetuning(self, task: Task, trial: Trial, place: Path) -> Training:
        return self._training(
            task,
            place,
            {**finetuning_settings(task, trial.steps), **trial.settings},
            dataset=self.study.dataset,
            trainer=task.arm.trainer,
            fold=self.study.fold(task.fraction, task.seed),
            weights=self._weights(task),
        )

    def _test(self, task: Task, best: Outcome, told: list[Outcome]) -> RunResult:
        """Predict and score the test cases with the model of the best trial, which is on the disk."""
        place = _trial_file(self.tasks.folder(task), best.trial).with_suffix("")
        fold = train(self._finetuning(task, best.trial, place))  # finds it finished
        cases = held_out_set(self.study, task.arm, task.seed)
        began, session = time.monotonic(), Session([self._device], versions=versions_of(*SOFTWARE))
        found = self.measured.tested(fold, cases, self.tasks.folder(task))
        about = {
            "chosen": best.as_dict(),
            "trials": [outcome.as_dict() for outcome in told],
            "patients": patients_of(self.study),
            "train_cases": len(self.study.parts.subsets[task.seed][self.study.settings.fractions.index(task.fraction)]),
            "seen": cases_seen(self.study, fold / FINAL, cases),
            "wall_seconds": time.monotonic() - began + sum(outcome.wall_seconds for outcome in told),
            "device": self._device.name,
            **found.extra,
        }
        steps = sum(outcome.trial.steps for outcome in told)
        cost = Cost(seconds=sum(outcome.seconds for outcome in told), steps=steps)
        trials = [_trial_file(self.tasks.folder(task), outcome.trial) for outcome in told]
        parts = [read_result(path, kind=TRIAL).provenance for path in trials]
        provenance = combined(*parts, Provenance(sessions=[session.as_dict()]))
        return _result(task, scores=found.scores, cost=cost, provenance=provenance, extra=about)


def _trial_file(folder: Path, trial: Trial) -> Path:
    return folder / f"trial_{trial.number}_{trial.steps}.json"


def pretraining_settings(task: Task) -> dict[str, Any]:
    """Return the settings with which a pre-training is derived from the plans."""
    epochs, iterations = lengths(task.arm.pretrain_steps, longest=_LONG_EPOCH, epochs=1)
    length = {"training.epochs": epochs, "training.iterations_per_epoch": iterations, "training.seed": task.seed}
    return {"training.val_iterations_per_epoch": 4, **length, **task.arm.pretrain_set}


def finetuning_settings(task: Task, steps: int) -> dict[str, Any]:
    """Return the settings with which a fine-tuning is derived from the plans, but for those of a trial."""
    epochs, iterations = lengths(steps)
    length = {"training.epochs": epochs, "training.iterations_per_epoch": iterations, "training.seed": task.seed}
    return {"training.val_iterations_per_epoch": 1, **length, **task.arm.set}


def _result(task: Task, **parts: Any) -> RunResult:
    arm: Arm = task.arm
    settings = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "arm": asdict(arm),
        "fraction": task.fraction,
        "seed": task.seed,
    }
    trainer = arm.pretrain if task.kind == "pretraining" else arm.trainer
    return RunResult(kind=KIND, trainer=trainer, settings=settings, versions=versions_of("nnunetv2", "torch"), **parts)


def _check_identity(folder: Path, task: Task) -> None:
    """Refuse to go on with the files of other settings; in a new folder, note whose they are."""
    path = folder / _IDENTITY
    if not path.is_file():
        write_json(path, {"fingerprint": task.fingerprint})
    elif read_json(path, {"fingerprint": str})["fingerprint"] != task.fingerprint:
        raise InputError(f"{folder} holds a task of other settings, cases or plans: name a new folder, or remove it")


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
