"""The tasks of a study: one pre-training for each arm and seed, one cell for each arm, label fraction and seed.

A cell is the search of the settings on the validation cases, and the prediction of the test cases with what was best. A
task is finished when its result.json holds the fingerprint of everything that it depends on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.locks import lock_if_free
from bdfm_nnunet.results import RunResult, read_result
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_settings import Arm, nearest

KIND = "study_task"
RESULT, FAILURE, LOCK = "result.json", "failed.json", ".lock"
PREDICTIONS, SCORES = "predictions", "scores.json"
"""In the folder of a cell: segmentations of the test cases, if models are kept, and scores as of `bdfm evaluate`."""
SUBJECTS = "subjects.csv"
"""In the folder of a cell for targets of subjects: predictions of the test cases as of `bdfm predict-subjects`."""
State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One unit of work, which runs on one machine.

    Attributes:
        name: also of its folder.
        kind: what it does.
        arm: the arm, complete.
        seed: number of the repetition.
        fraction: of a cell, percent of the training cases whose labels are used; else 0.
        needs: names of the tasks whose results it uses.
        fingerprint: SHA-256 of everything that its result depends on.
    """

    name: str
    kind: Literal["pretraining", "cell"]
    arm: Arm
    seed: int
    fraction: float = 0.0
    needs: tuple[str, ...] = ()
    fingerprint: str = ""


class TaskList:
    """All tasks of a study: pre-trainings first, then cells seed by seed, so that each comes after those that it needs.

    Args:
        study: the study, prepared.
    """

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self._named: dict[str, Task] = {}
        self._pretrainings: dict[str, str] = {}
        arms = [study.settings.complete(arm) for arm in study.settings.arms]
        places = [(seed, arm) for seed in range(study.settings.seeds) for arm in arms]
        anew = study.settings.pretrain_seeds == "each"
        pretrained = [self._pretraining(arm, seed * anew) if arm.pretrain else "" for seed, arm in places]
        for (seed, arm), pretraining in zip(places, pretrained):
            for fraction in study.settings.fractions:
                self._add(self._cell(arm, fraction, seed, pretraining))

    def __iter__(self) -> Any:
        return iter(self._named.values())

    def __len__(self) -> int:
        return len(self._named)

    def named(self, name: str) -> Task:
        """Return the task of a name or number.

        Raises:
            InputError: there is none.
        """
        if name in self._named:
            return self._named[name]
        if name.isdecimal() and int(name) < len(self):
            return list(self)[int(name)]
        hint = f"take 0 to {len(self) - 1}" if name.isdecimal() else nearest(name, self._named)
        raise InputError(f"{self.study.path} has no task {name}: {hint}")

    def _add(self, task: Task) -> None:
        self._named[task.name] = task

    def _pretraining(self, arm: Arm, seed: int) -> str:
        """Return the name of an arm's pre-training, which arms that pre-train alike share."""
        study = self.study
        dataset = study.pretraining_dataset(arm)
        depends = {
            "pretrain": arm.pretrain,
            "set": arm.pretrain_set,
            "steps": arm.pretrain_steps,
            "configuration": [arm.plans, arm.configuration],
            "plans": study.plans(dataset, arm.plans)["configurations"],
            "cases": [dataset, *(() if arm.pretrain_on else study.parts.sides(seed).train)],
            "seed": seed,
        }
        fingerprint = _digest(depends)
        if fingerprint not in self._pretrainings:
            name = f"pretraining_{arm.name}_seed{seed}"
            self._pretrainings[fingerprint] = name
            self._add(Task(name=name, kind="pretraining", arm=arm, seed=seed, fingerprint=fingerprint))
        return self._pretrainings[fingerprint]

    def _cell(self, arm: Arm, fraction: float, seed: int, pretraining: str) -> Task:
        study, settings = self.study, self.study.settings
        name = f"{arm.name}_{fraction:g}percent_seed"
        follows = settings.search_seeds == "first" and seed > 0
        needs = tuple(each for each in (pretraining, f"{name}0" * follows) if each)
        sides = study.parts.sides(seed)
        depends = {
            "pretraining": self._named[pretraining].fingerprint if pretraining else "",
            "weights": study.weights.get(arm.weights, {}).get("sha256", ""),
            "set": arm.set,
            "trainer": arm.trainer,
            "trials": settings.trials(arm),
            "search": [settings.search_seeds, settings.halving],
            "steps": settings.steps,
            "configuration": [arm.plans, arm.configuration],
            "plans": study.plans(study.dataset, arm.plans)["configurations"],
            "cases": study.parts.subsets[seed][settings.fractions.index(fraction)],
            "others": [study.dataset, sides.validation, sides.test, settings.test],
            "mirroring": settings.mirroring,
            "seed": seed,
        }
        task = {"kind": "cell", "arm": arm, "fraction": fraction, "seed": seed, "needs": needs}
        return Task(name=f"{name}{seed}", fingerprint=_digest(depends), **task)  # type: ignore[arg-type]

    # --- on the disk --------------------------------------------------------------------------------------------

    def folder(self, task: Task) -> Path:
        """Return the folder of a task."""
        return self.study.path / "tasks" / task.name

    def result(self, task: Task) -> RunResult | None:
        """Return the result of a task; None where there is none yet.

        Raises:
            InputError: the one that is there is of other settings.
        """
        path = self.folder(task) / RESULT
        if not path.is_file():
            return None
        result = read_result(path, kind=KIND)
        if (result.settings or {}).get("fingerprint") != task.fingerprint:
            raise InputError(
                f"{path} is the result of other settings, cases or plans: name a new folder with -o, or remove "
                f"{path.parent} to do this task again"
            )
        return result

    def state(self, task: Task) -> State:
        """Return how far a task is."""
        if self.result(task) is not None:
            return "done"
        folder = self.folder(task)
        if folder.is_dir():
            with lock_if_free(folder / LOCK) as free:
                if not free:
                    return "running"
        return "failed" if (folder / FAILURE).is_file() else "waiting"

    def failure(self, task: Task) -> str:
        """Return why a task failed last time; empty where it did not."""
        path = self.folder(task) / FAILURE
        return str(read_json(path, {"error": str})["error"]) if path.is_file() else ""


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
