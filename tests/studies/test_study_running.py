"""Runs of a study: killed at any moment, side by side, one by one, with tasks that fail, on a cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.results import read_result
from bdfm_nnunet.results.verification import verify_result
from bdfm_nnunet.studies import study_running
from bdfm_nnunet.studies.study_folder import StudyFolder, prepare
from bdfm_nnunet.studies.study_results import write_study
from bdfm_nnunet.studies.study_running import Order, Report, run_apart, run_study
from bdfm_nnunet.studies.study_tasks import TaskList
from tests.studies import run_made_up_study
from tests.studies.study_cohort import make_dataset, settings

SCRIPT = str(Path(run_made_up_study.__file__))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    make_dataset(tmp_path, monkeypatch)
    return prepare(settings(), tmp_path / "out")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trains nothing in this process either, and returns the log of what was run."""
    for name in ("bdfm_nnunet.studies.task_running", "bdfm_nnunet.training.calibration"):
        monkeypatch.setitem(sys.modules, name, sys)  # so that it is put back
    run_made_up_study.stand_in(tmp_path / "here.txt", 0.0)
    return tmp_path / "here.txt"


def start(study: StudyFolder, log: Path, seconds: float, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, SCRIPT, str(study.path), str(log), str(seconds), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def wait_for(log: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(begun(log)) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def test_killed_and_run_again_by_two_it_ends_in_the_same_table(
    study: StudyFolder, made_up: Path, tmp_path: Path
) -> None:
    whole = prepare(settings(), tmp_path / "whole")
    assert {report.state for report in run_study(whole)} == {"done"}
    write_study(TaskList(whole))
    log, names = tmp_path / "log.txt", [task.name for task in TaskList(study)]
    with start(study, log, 0.3) as first:
        wait_for(log, 4)
        os.kill(first.pid, signal.SIGKILL)
    assert not (study.path / "study.json").exists() and len(begun(log)) == 4
    tasks = TaskList(study)
    again = [name for name in begun(log) if tasks.state(tasks.named(name)) != "done"]
    assert again == begun(log)[-1:]
    for run in [start(study, log, 0.2) for _ in range(2)]:
        told, error = run.communicate(timeout=100)
        assert run.returncode == 0, error
        assert "bdfm is better than scratch by 0.020 Dice" in told and "not finished" not in told
    assert Counter(begun(log)) == {name: 1 + (name in again) for name in names}
    for name in ("study.json", "study.md"):
        assert (study.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not list(study.path.rglob("half"))


def test_rows_name_everything(study: StudyFolder, made_up: Path) -> None:
    run_study(study)
    assert write_study(TaskList(study)) == study.path / "study.md"
    rows = json.loads((study.path / "study.json").read_text())
    assert isinstance(rows, list) and len(rows) == 2 * 2 * 2 * len(study.parts.test) * 2
    assert {"arm", "fraction", "seed", "case", "region", "dice", "patient", "rate", "train_cases"} <= set(rows[0])
    assert [row["fraction"] for row in rows] == sorted(row["fraction"] for row in rows)
    result = read_result(study.path / "result.json", kind="study")
    assert [(each["arm"], each["fraction"]) for each in result.extra["table"]] == [
        ("scratch", 20.0), ("bdfm", 20.0), ("scratch", 100.0), ("bdfm", 100.0),
    ]  # fmt: skip
    assert result.extra["table"][1]["difference"]["mean"] == pytest.approx(0.02)
    assert result.extra["table"][1]["pretraining_hours"] == pytest.approx(18 / 3600)
    assert result.extra["missing_tasks"] == 0 and (study.path / "figures" / "dice.png").is_file()


def test_a_study_names_its_files(study: StudyFolder, made_up: Path) -> None:
    run_study(study)
    write_study(TaskList(study))
    found = read_result(study.path / "result.json").provenance
    assert found is not None
    assert {each.role for each in found.inputs} >= {"settings of the study", "plans", "splits", "dataset.json"}
    assert [each.place for each in found.outputs] == ["study.json", "study.md", "figures"]
    faults = verify_result(study.path / "result.json").faults  # no checksums lie beside the made-up data
    assert not faults.changed and not faults.missing
    (study.path / "study.json").write_text("[]")
    assert verify_result(study.path / "result.json").faults.changed == ("study.json",)


def test_one_task_does_first_what_it_needs(study: StudyFolder, made_up: Path) -> None:
    order = Order(out=study.path, task="bdfm_20percent_seed1")
    assert study_running.run_order(order) == Report("bdfm_20percent_seed1", "done")
    assert begun(made_up) == ["pretraining_bdfm_seed1", "bdfm_20percent_seed1"]
    study_running.run_order(order)
    assert len(begun(made_up)) == 2


def test_a_task_that_fails_is_told_and_tried_again(study: StudyFolder, made_up: Path) -> None:
    mark = study.path / "fail_pretraining_bdfm_seed0"
    mark.touch()
    reports = {report.task: report for report in run_study(study)}
    failed = {name for name, report in reports.items() if report.state == "failed"}
    assert failed == {"pretraining_bdfm_seed0", "bdfm_20percent_seed0", "bdfm_100percent_seed0"}
    assert "MemoryError: none left" in reports["bdfm_20percent_seed0"].error
    assert TaskList(study).failure(TaskList(study).named("0")) == "MemoryError: none left"
    mark.unlink()
    assert {report.state for report in run_study(study)} == {"done"}


def test_several_jobs_get_their_share_of_the_cores(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run_all(orders: list[Order], function: Any, **how: Any) -> Any:
        given.update(how, function=function, threads=os.environ.get("OMP_NUM_THREADS"), names=[o.task for o in orders])
        return [Report(order.task, "done") for order in orders]

    monkeypatch.setattr(study_running, "run_all", run_all)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "x")
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_study(study, jobs=4)
    assert (given["workers"], given["threads"], given["function"]) == (4, "2", study_running.run_order)
    assert given["names"][:2] == ["pretraining_bdfm_seed0", "pretraining_bdfm_seed1"]
    run_study(study, scheduler="tcp://here:1")
    assert (given["scheduler"], given["option"], given["function"]) == ("tcp://here:1", "--dask", run_apart)


def test_a_worker_of_a_cluster_tells_the_reason(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **how: Any) -> Any:
        ran.append(command)
        ended = int("seed1" in command[-1] or "seed1" in command[-2])
        return subprocess.CompletedProcess(command, 2 * ended, "", "log\nbdfm: error: no such device\n\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert run_apart(Order(out=study.path, task="scratch_20percent_seed0", device="cpu")).state == "done"
    assert ran[0][1:] == [
        "-m", "bdfm_nnunet.cli", "study", "-o", str(study.path), "--task", "scratch_20percent_seed0", "--device", "cpu",
    ]  # fmt: skip
    report = run_apart(Order(out=study.path, task="scratch_20percent_seed1"))
    assert report == Report("scratch_20percent_seed1", "failed", "no such device")
