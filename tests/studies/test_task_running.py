"""What a task does, with trainings that take no time: choice by validation alone, resumed trials, divergence."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results import Cost, Provenance, RunResult, read_result, write_result
from bdfm_nnunet.studies import segmented_cases, task_running
from bdfm_nnunet.studies.arm_training import DivergedError, Training
from bdfm_nnunet.studies.scored_cases import CaseSet
from bdfm_nnunet.studies.study_folder import StudyFolder, prepare
from bdfm_nnunet.studies.study_listing import list_tasks
from bdfm_nnunet.studies.study_tasks import TaskList
from bdfm_nnunet.studies.task_running import TaskRunner
from tests.studies.study_cohort import ARMS, NAME, make_dataset, settings


class Trainings:
    """Stands for training, prediction and scoring; validation likes a low rate, the test a high one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Training] = []
        self.predicted: list[list[str]] = []
        self.diverges: set[float] = set()
        for name in ("train", "cases_seen"):
            monkeypatch.setattr(task_running, name, getattr(self, name))
        for name in ("predict", "score"):
            monkeypatch.setattr(segmented_cases, name, getattr(self, name))

    @staticmethod
    def settings(training: Training) -> dict[str, Any]:
        return dict(training.plans["configurations"]["study"]["training"])

    def train(self, training: Training) -> Path:
        fold = training.folder / "fold"
        if (fold / "checkpoint_final.pth").is_file():
            return fold
        chosen = self.settings(training)
        self.done.append(training)
        if chosen.get("initial_lr") in self.diverges:
            raise DivergedError("the loss is not finite in step 3, see there")
        kind = "pretraining" if "Pretrain" in training.trainer else "segmentation"
        names = {"pretraining": "pretraining_summary.json", "segmentation": "training_summary.json"}
        extra = {"psnr": 20.0} if kind == "pretraining" else {"rate": chosen["initial_lr"]}
        about = Provenance(sessions=[{"hours": 0.5, "device": "cpu"}], licences={"ixi": "CC BY-SA 3.0"})
        result = RunResult(kind=kind, cost=Cost(seconds=5.0, steps=10), provenance=about, extra=extra)
        write_result(fold / names[kind], result)
        (fold / "checkpoint_final.pth").touch()
        return fold

    def predict(self, fold: Path, cases: list[str], *, out: Path, **how: Any) -> None:
        self.predicted.append(cases)
        out.mkdir()
        self.rate = read_result(fold / "training_summary.json").extra["rate"]

    def score(self, study: StudyFolder, cases: CaseSet, predictions: Path, out: Path | None) -> dict[str, Any]:
        dice = 0.9 - 10 * self.rate if cases.cases == study.parts.validation else 0.5 + 10 * self.rate
        rows = [{"case": case, "regions": {"front": {"dice": dice}}} for case in cases.cases]
        names = ("release", "definition", "parameters", "regions", "interval", "seed")
        return {"metrics": "whole", "summary": {"front": {"dice": {"mean": dice, "low": dice, "high": dice}}},
                "cases": rows, **dict.fromkeys(names)}  # fmt: skip

    def cases_seen(self, study: StudyFolder, checkpoint: Path, cases: CaseSet) -> str:
        assert checkpoint.is_file()
        return ""


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_dataset(tmp_path, monkeypatch)
    return tmp_path / "out"


def runner(out: Path, *, keep_models: bool = False, **changes: Any) -> TaskRunner:
    given = {"rates": [1e-3, 1e-2, 3e-3], "steps": 60, **changes}
    return TaskRunner(TaskList(prepare(settings(**given), out)), torch.device("cpu"), keep_models=keep_models)


def run(found: TaskRunner, name: str) -> RunResult:
    task = found.tasks.named(name)
    found.run(task)
    result = found.tasks.result(task)
    assert result is not None
    return result


def test_without_validation_cases_nothing_is_chosen_and_each_seed_tests_others(
    made: Path, trainings: Trainings
) -> None:
    found = runner(made, rotate=True, validation=0, rates=[1e-3], hold_out=25)
    results = [run(found, f"scratch_20percent_seed{seed}") for seed in range(2)]
    assert trainings.predicted == [turn.test for turn in found.study.parts.turns] and len(trainings.done) == 2
    assert [result.extra["chosen"]["score"] for result in results] == [None, None]
    trainings.diverges = {1e-3}
    with pytest.raises(InputError, match="diverged"):
        run(found, "scratch_100percent_seed0")


def test_arms_may_pretrain_on_other_data(made: Path, trainings: Trainings) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        folder = made.parent / variable
        (folder / "Dataset010_Other").symlink_to(made.parent / "nnUNet_preprocessed" / NAME)
    arms = {**ARMS, "other": {**ARMS["bdfm"], "pretrain_on": 10}}
    found = runner(made, arms=arms)
    for arm in ("bdfm", "other"):
        run(found, f"pretraining_{arm}_seed0")
    assert [training.dataset for training in trainings.done] == [NAME, "Dataset010_Other"]


def test_sessions_of_all_trials_are_those_of_a_cell(made: Path, trainings: Trainings) -> None:
    found, name = runner(made), "scratch_20percent_seed1"
    trainings.diverges = {1e-2}
    provenance = run(found, name).provenance
    assert provenance is not None and provenance.licences == {"ixi": "CC BY-SA 3.0"}
    hours = {each["count"]: each["hours"] for each in provenance.sessions if "processor" not in each}
    assert hours == {3: pytest.approx(1.0, abs=1e-3)}  # two of half an hour, and what it took to diverge
    assert len([each for each in provenance.sessions if "processor" in each]) == 1  # the test
    assert not list(found.tasks.folder(found.tasks.named(name)).glob("*.md"))


def test_validation_cases_choose_and_test_cases_only_test(made: Path, trainings: Trainings) -> None:
    found = runner(made)
    result = run(found, "scratch_20percent_seed1")
    parts = found.study.parts
    assert result.extra["chosen"]["settings"] == {"training.initial_lr": 1e-3}
    assert [trial["score"] for trial in result.extra["trials"]] == pytest.approx([0.89, 0.8, 0.87])
    assert trainings.predicted == [*[parts.validation] * 3, parts.test]
    assert result.scores is not None and result.scores["cases"][0]["regions"]["front"]["dice"] == pytest.approx(0.51)
    assert result.cost == Cost(seconds=15.0, steps=180) and result.extra["train_cases"] == len(parts.subsets[1][0])
    for training in trainings.done:
        assert (training.fold, training.weights) == (found.study.fold(20.0, 1), "none")
        told = Trainings.settings(training)
        assert (told["seed"], told["epochs"] * told["iterations_per_epoch"]) == (1, 60)


def test_pretraining_is_what_the_cells_start_from(made: Path, trainings: Trainings) -> None:
    found = runner(made, pretrain_set={"pretraining.mask_ratio": 0.5}, pretrain_steps=500)
    summary = run(found, "pretraining_bdfm_seed0")
    (pretraining,) = trainings.done
    assert (pretraining.trainer, pretraining.fold, pretraining.weights) == ("nnUNetTrainerBDFMPretrain", 0, "none")
    told = pretraining.plans["configurations"]["study"]
    assert told["pretraining"] == {"mask_ratio": 0.5}
    assert (told["training"]["epochs"], told["training"]["iterations_per_epoch"]) == (2, 250)
    run(found, "bdfm_100percent_seed0")
    weights = Path(trainings.done[-1].weights)
    assert weights == found.study.path / summary.extra["checkpoint"] and weights.is_file()


def test_an_arm_may_pretrain_longer_than_others(made: Path, trainings: Trainings) -> None:
    arms = {**ARMS, "longer": {**ARMS["bdfm"], "pretrain_steps": 750}}
    found = runner(made, arms=arms, pretrain_steps=500)
    run(found, "pretraining_longer_seed0")
    told = Trainings.settings(trainings.done[-1])
    assert told["epochs"] * told["iterations_per_epoch"] == 750
    steps = {line.name: line.steps for line in list_tasks(found.tasks)}
    assert (steps["pretraining_bdfm_seed0"], steps["pretraining_longer_seed0"]) == (500, 750)


def test_a_trial_that_is_done_is_not_done_again(
    made: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runner(made)
    score = trainings.score
    calls = []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(segmented_cases, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        run(found, "scratch_20percent_seed0")
    monkeypatch.setattr(segmented_cases, "score", score)
    for path in found.tasks.folder(found.tasks.named("scratch_20percent_seed0")).rglob("validation"):
        path.rmdir()
    again = run(found, "scratch_20percent_seed0")
    assert len(trainings.done) == 3 and len(again.extra["trials"]) == 3


def test_what_diverges_loses_and_if_all_do_the_task_fails(made: Path, trainings: Trainings) -> None:
    trainings.diverges = {1e-3}
    found = runner(made)
    result = run(found, "scratch_20percent_seed0")
    assert result.extra["chosen"]["settings"] == {"training.initial_lr": 3e-3}
    assert result.extra["trials"][0]["score"] is None and "not finite in step 3" in result.extra["trials"][0]["note"]
    trainings.diverges = {1e-3, 1e-2, 3e-3}
    with pytest.raises(InputError, match="every training of scratch_100percent_seed0 diverged"):
        run(found, "scratch_100percent_seed0")


def test_halving_and_the_choice_of_the_first_seed(made: Path, trainings: Trainings) -> None:
    found = runner(made, halving=True, search_seeds="first", steps=90)
    run(found, "scratch_20percent_seed0")
    lengths = [told["epochs"] * told["iterations_per_epoch"] for told in map(Trainings.settings, trainings.done)]
    assert lengths == [30, 30, 30, 90]
    result = run(found, "scratch_20percent_seed1")
    assert len(trainings.done) == 5 and Trainings.settings(trainings.done[-1])["initial_lr"] == 1e-3
    assert result.extra["chosen"]["settings"] == {"training.initial_lr": 1e-3}


@pytest.mark.parametrize("keep", [True, False])
def test_models_stay_where_they_are_wanted(made: Path, trainings: Trainings, keep: bool) -> None:
    found = runner(made, keep_models=keep)
    run(found, "scratch_20percent_seed0")
    folder = found.tasks.folder(found.tasks.named("scratch_20percent_seed0"))
    assert len(list(folder.rglob("checkpoint_final.pth"))) == 3 * keep and (folder / "predictions").is_dir() == keep
    assert len(list(folder.glob("trial_*.json"))) == 3


def test_settings_of_an_arm_reach_its_training(made: Path, trainings: Trainings) -> None:
    arms = {"slow": {"set": {"finetuning.encoder_lr_factor": 0.1, "batch_size": 4}, "rates": [0.1, 0.2, 0.3]}}
    found = runner(made, arms=arms, set={"training.weight_decay": 0.5})
    run(found, "slow_20percent_seed0")
    told = trainings.done[0].plans["configurations"]["study"]
    assert told["finetuning"] == {"encoder_lr_factor": 0.1} and told["batch_size"] == 4
    assert told["training"]["weight_decay"] == 0.5 and told["training"]["initial_lr"] == 0.1


def test_files_of_other_settings_are_refused(made: Path, trainings: Trainings) -> None:
    found = runner(made)
    task = found.tasks.named("scratch_20percent_seed0")
    folder = found.tasks.folder(task)
    folder.mkdir(parents=True)
    (folder / "task.json").write_text('{"fingerprint": "other"}')
    with pytest.raises(InputError, match="holds a task of other settings"):
        found.run(task)
    assert not trainings.done
