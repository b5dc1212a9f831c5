"""`bdfm plan` tells what training will cost."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.commands.cost_report import calibration_rows, cost_rows
from bdfm_nnunet.cost_records import Costs, Schedule
from bdfm_nnunet.training.calibration import Calibration
from tests.conftest import Prepared
from tests.sequence_cohort import run_command

SCHEDULE = Schedule(epochs=1000, iterations=250, val_iterations=50, batch_size=2)


@pytest.fixture
def plan(prepared: Prepared, caplog: pytest.LogCaptureFixture) -> "Plan":
    caplog.set_level(logging.INFO)
    return Plan(prepared, caplog)


class Plan:
    """Runs `bdfm plan` on the labelled data set."""

    def __init__(self, prepared: Prepared, caplog: pytest.LogCaptureFixture) -> None:
        self.prepared, self.caplog = prepared, caplog
        self.plans = prepared.folder("nnUNet_preprocessed", prepared.labelled) / f"{prepared.plans}.json"

    def __call__(self, *options: str, code: int = 0) -> dict[str, str]:
        """Names and values of the rows that were told."""
        self.caplog.clear()
        assert cli.main(["plan", "-d", str(self.prepared.labelled), "-p", self.prepared.plans, *options]) == code
        lines = [line for message in self.caplog.messages for line in message.splitlines()]
        return dict(line.split("  ", 1) for line in lines if "  " in line)


def test_rows_are_of_whole_steps() -> None:
    costs = Costs(
        parameters=1_500_000, activation_bytes=2**30, state_bytes=2**29, forward_flops=10**11, backward_flops=2 * 10**11
    )
    assert cost_rows(costs, SCHEDULE) == {
        "parameters": "1.5 million",
        "arithmetic of a step": "200 + 400 GFLOP forward + backward",
        "activations of a step": "2.00 GB",
        "memory in training": "about 2.8 GB",  # 1.1 times 2.5
        "samples": "500 an epoch, 500,000 in 1,000 epochs",
        "steps": "250,000 of 2 samples",
    }


def test_rows_of_a_calibration() -> None:
    found = Calibration(
        schedule=SCHEDULE, device="cpu", threads=2, steps=(1.44,) * 20, waits=(0.36,) * 20, validations=(0.72,),
        loading=0.05, peak_gb=3.14,
    )  # fmt: skip
    assert calibration_rows(found) == {
        "measured on": "cpu, 2 threads, 20 steps",
        "a step": "1.44 s (1.44 to 1.44), 25% of it waiting for data; the loaders alone give a batch in 0.05 s",
        "a validation batch": "0.72 s",
        "the whole training": "about 110 hours (110 to 110): 250,000 steps and 50,000 validation batches",
        "memory": "3.1 GB at most",
    }


def test_a_short_training_is_told_in_minutes() -> None:
    schedule = Schedule(epochs=1, iterations=120, val_iterations=60, batch_size=2)
    found = Calibration(
        schedule=schedule, device="cpu", threads=2, steps=(1.0,), waits=(0.1,), validations=(0.5,), loading=0.05
    )
    assert calibration_rows(found)["the whole training"].startswith("about 2.5 minutes (2.5 to 2.5): 120 steps and 60")


def test_a_variant_is_told_with_costs_of_its_own(plan: Plan) -> None:
    base = plan("--variant", "told", "--set", "training.epochs=4")
    assert base["plans"].endswith("configuration told")
    names = base["training"].split()
    assert names == ["nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM"]
    assert base["samples"].strip().split("  ")[0] == "500 an epoch, 2,000 in 4 epochs"
    assert "GB in training, of" in base["memory"]
    larger = plan("--variant", "larger", "--set", "batch_size=4")
    assert "memory" not in larger  # that of the base was counted for two samples
    assert larger["samples"].strip().split("  ")[0] == "1,000 an epoch, 1,000,000 in 1,000 epochs"
    forward, forward_of_four = (float(rows["arithmetic of a step"].split()[0]) for rows in (base, larger))
    assert forward_of_four == pytest.approx(2 * forward, rel=0.01)


@pytest.mark.parametrize(
    ("setting", "trainer"),
    [
        ('pretraining.objectives=[{"name":"masked"},{"name":"contrastive"}]', "nnUNetTrainerPretrain"),
        ("pretraining.temperature=0.1", "nnUNetTrainerSimCLR"),
    ],
)
def test_settings_of_another_objective_are_told_with_its_trainer(plan: Plan, setting: str, trainer: str) -> None:
    rows = plan("--variant", "other", "--set", setting)
    assert rows["training"].split() == [trainer, "nnUNetTrainerBDFM"]


def test_an_existing_variant_is_told_and_kept(plan: Plan) -> None:
    plan("--variant", "kept", "--set", "training.epochs=4")
    before = plan.plans.read_bytes()
    rows = plan("--variant", "kept", "-tr", "nnUNetTrainerSimMIM")
    assert plan.plans.read_bytes() == before
    assert rows["training"].split() == ["nnUNetTrainerSimMIM"]
    assert "in 4 epochs" in rows["samples"]
    plan("--variant", "kept", "--base", "3d_fullres")
    assert "training" not in json.loads(plan.plans.read_text())["configurations"]["kept"]


def test_calibration_of_a_variant(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    plan("--variant", "timed", "--set", "training.epochs=4")
    rows = plan("--variant", "timed", "-tr", "nnUNetTrainerSimMIM", "--calibrate", "2", "--device", "cpu")
    assert rows["measured on"].strip().startswith("cpu, ") and rows["measured on"].endswith(", 2 steps")
    assert rows["the whole training"].endswith("1,000 steps and 200 validation batches")
    assert "calibrating nnUNetTrainerSimMIM with 2 steps on cpu" in plan.caplog.messages
    assert capsys.readouterr().out == ""


def test_what_is_missing_is_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan("--variant", "told", "-tr", "Nothing", code=2)
    assert "-tr Nothing does not exist" in capsys.readouterr().err
    source = plan.plans.parent
    data = tmp_path / "nnUNet_preprocessed" / source.name
    shutil.copytree(source, data, ignore=lambda folder, names: names if folder != str(source) else [])
    monkeypatch.setenv("nnUNet_preprocessed", str(data.parent))
    plan("--variant", "told", "--calibrate", code=2)
    assert "holds no preprocessed cases to calibrate on: run `bdfm plan -d 502" in capsys.readouterr().err
    (data / "dataset.json").unlink()
    plan("--variant", "told", code=2)
    assert "dataset.json does not exist" in capsys.readouterr().err


def test_calibration_trains_on_clips_and_tells_hours(sequences: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    length = ("--set", "training.epochs=4", "--set", "training.workers=0")
    run_command("plan", "-d", 700, "--variant", "timed", *length, "--calibrate", 4, "--device", "cpu")
    assert "calibrating nnUNetTrainerNeuroSTORM with 4 steps on cpu" in caplog.messages
    assert re.search(r"measured on +cpu, .*, 4 steps\n", caplog.text)
    assert re.search(r"the whole training +about .*: 1,000 steps and 200 validation batches", caplog.text)
