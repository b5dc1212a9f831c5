"""The tasks of a study: which there are, what they depend on, and when one is finished."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.locks import lock_if_free
from bdfm_nnunet.results import write_result
from bdfm_nnunet.studies.study_folder import StudyFolder, prepare
from bdfm_nnunet.studies.study_listing import duration, list_tasks, listing_text, steps_of
from bdfm_nnunet.studies.study_tasks import TaskList
from tests.studies.study_cohort import ARMS, make_dataset, result_of, settings


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    make_dataset(tmp_path, monkeypatch)
    return prepare(settings(), tmp_path / "out")


def with_settings(study: StudyFolder, **changes: Any) -> TaskList:
    return TaskList(replace(study, settings=settings(**changes)))


def test_one_pretraining_may_serve_all_seeds(study: StudyFolder) -> None:
    tasks = with_settings(study, pretrain_seeds="first")
    assert [task.name for task in tasks if task.kind == "pretraining"] == ["pretraining_bdfm_seed0"]
    needs = {task.name: task.needs for task in tasks}
    assert needs["bdfm_20percent_seed1"] == needs["bdfm_20percent_seed0"] == ("pretraining_bdfm_seed0",)


def test_each_comes_after_what_it_needs(study: StudyFolder) -> None:
    tasks = list(TaskList(study))
    names = [task.name for task in tasks]
    assert len(names) == 2 + 2 * 2 * 2 and names[0] == "pretraining_bdfm_seed0"
    for number, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:number])
    assert dict(zip(names, tasks))["bdfm_20percent_seed1"].needs == ("pretraining_bdfm_seed1",)


def test_first_seed_chooses_where_it_is_asked_to(study: StudyFolder) -> None:
    tasks = with_settings(study, search_seeds="first")
    assert tasks.named("bdfm_20percent_seed1").needs == ("pretraining_bdfm_seed1", "bdfm_20percent_seed0")
    assert tasks.named("scratch_100percent_seed0").needs == ()


def test_arms_that_pretrain_alike_share_it(study: StudyFolder) -> None:
    other = {**ARMS["bdfm"], "set": {"finetuning.encoder_lr_factor": 0.1}}
    apart = {**ARMS["bdfm"], "pretrain_set": {"pretraining.mask_ratio": 0.5}}
    longer = {**ARMS["bdfm"], "pretrain_steps": 500}
    tasks = with_settings(study, arms={**ARMS, "slow": other, "half": apart, "longer": longer})
    assert tasks.named("longer_20percent_seed1").needs == ("pretraining_longer_seed1",)
    assert tasks.named("slow_20percent_seed1").needs == ("pretraining_bdfm_seed1",)
    assert tasks.named("half_20percent_seed1").needs == ("pretraining_half_seed1",)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 20}, {"rates": [1e-3, 1e-2]}, {"halving": True}, {"mirroring": True}, {"set": {"a": 1}},
        {"pretrain_steps": 20}, {"pretrain_set": {"a": 1}}, {"search": {"a": [1, 2]}}, {"search_seeds": "first"},
    ],
)  # fmt: skip
def test_whatever_changes_a_result_changes_its_fingerprint(study: StudyFolder, changes: dict[str, Any]) -> None:
    before, after = (
        tasks.named("bdfm_20percent_seed1") for tasks in (TaskList(study), with_settings(study, **changes))
    )
    assert before.fingerprint != after.fingerprint


def test_what_changes_no_result_changes_no_fingerprint(study: StudyFolder) -> None:
    arms = {"new": {"strategy": "frozen"}, **ARMS}
    before, after = TaskList(study), with_settings(study, arms=arms)
    for task in before:
        assert after.named(task.name).fingerprint == task.fingerprint
    assert len({task.fingerprint for task in before}) == len(before)


def test_tasks_are_named_or_numbered(study: StudyFolder) -> None:
    tasks = TaskList(study)
    assert tasks.named("3") is tasks.named(list(tasks)[3].name)
    with pytest.raises(InputError, match="has no task 10: take 0 to 9"):
        tasks.named("10")
    with pytest.raises(InputError, match="did you mean bdfm_20percent_seed1"):
        tasks.named("bdfm_20_seed1")


def test_states(study: StudyFolder) -> None:
    tasks = TaskList(study)
    done, failed, running, waiting = list(tasks)[:4]
    write_result(tasks.folder(done) / "result.json", result_of(study, done))
    tasks.folder(failed).mkdir(parents=True)
    (tasks.folder(failed) / "failed.json").write_text(json.dumps({"error": "no memory"}))
    with lock_if_free(tasks.folder(running) / ".lock") as mine:
        assert mine
        assert [tasks.state(task) for task in (done, failed, running, waiting)] == [
            "done", "failed", "running", "waiting",
        ]  # fmt: skip
    assert tasks.state(running) == "waiting" and tasks.failure(failed) == "no memory" and not tasks.failure(done)


def test_result_of_other_settings_is_refused(study: StudyFolder) -> None:
    tasks = TaskList(study)
    task = tasks.named("scratch_20percent_seed0")
    write_result(tasks.folder(task) / "result.json", result_of(study, replace(task, fingerprint="other")))
    with pytest.raises(InputError, match="is the result of other settings"):
        tasks.state(task)


def test_costs_to_come_follow_from_similar_tasks(study: StudyFolder) -> None:
    tasks = TaskList(study)
    before = list_tasks(tasks)
    assert all(line.seconds is None for line in before)
    # 4 GFLOP forward and 8 backward, of 2 samples; a cell has two trainings of ten steps, a pre-training a thousand
    assert [line.tflop for line in before[:3]] == pytest.approx([12 * 2 * 1.0, 12 * 2 * 1.0, 12 * 2 * 20e-3])
    assert "10 tasks of unknown cost, 51.8 TFLOP of steps" in listing_text(before)
    assert "0.48 TFLOP" in listing_text(before)
    for name in ("pretraining_bdfm_seed0", "scratch_20percent_seed0"):
        task = tasks.named(name)
        write_result(tasks.folder(task) / "result.json", result_of(study, task))
    lines = {line.name: line for line in list_tasks(tasks)}
    assert lines["pretraining_bdfm_seed1"].seconds == 20.0 and lines["bdfm_100percent_seed1"].seconds == 40.0
    assert lines["scratch_20percent_seed0"].measured and not lines["bdfm_20percent_seed0"].measured
    text = listing_text(list(lines.values()))
    assert "10 tasks: 2 done, 8 waiting" in text and "left: about 5 min of one process" in text


def test_steps_count_the_whole_search(study: StudyFolder) -> None:
    nine = {"rates": [1e-3, 2e-3, 3e-3], "search": {"a": [1, 2, 3]}, "steps": 900}
    for changes, steps in (({}, 8100), ({"halving": True}, 2700), ({"search_seeds": "first"}, 900)):
        tasks = with_settings(study, **nine, **changes)
        assert steps_of(tasks.named("scratch_20percent_seed1"), tasks.study.settings) == steps
    assert duration(7200) == "2.0 h"
