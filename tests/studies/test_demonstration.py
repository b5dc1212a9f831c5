"""The demonstration: its commands, its folder, and (slow) all of it in a very small size."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bdfm_nnunet.cli import build_parser
from bdfm_nnunet.commands.study import study_settings_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import check_blocks
from bdfm_nnunet.studies import demonstration
from bdfm_nnunet.studies.demonstration import FOLD, PLANS, QUICK, DemoSettings, demo_steps, run_demo


def steps_of(settings=QUICK, out=Path("/results")):
    return {step.name: step for group in demo_steps(out, settings, workers=2) for step in group}


def settings_of(step):
    texts = [b for a, b in zip(step.command, step.command[1:]) if a == "--set"]
    blocks = {}
    for text in texts:
        key, _, value = text.partition("=")
        block, _, name = key.partition(".")
        blocks.setdefault(block, {})[name] = json.loads(value)
    return blocks


COMPARE = "compare with training from scratch"


def study_of(settings=QUICK, out=Path("/results")):
    """The study that the command of the demonstration makes."""
    command = steps_of(settings, out)[COMPARE].command
    assert command[:2] == ("bdfm", "study")
    return study_settings_of(build_parser().parse_args(command[1:]))


def test_fine_tuning_and_scratch_differ_only_in_weights():
    study = study_of()
    scratch, tuned = (study.complete(arm) for arm in study.arms)
    assert scratch.weights == "none" and tuned.weights.endswith(f"__demo/fold_{FOLD}/checkpoint_final.pth")
    assert replace(tuned, name=scratch.name, weights="none") == scratch
    assert (study.baseline, study.test, study.dataset) == ("from_scratch", 903, 902)
    assert (study.steps, study.rates, study.seeds, study.fractions) == (4, (1e-3,), 1, (100.0,))
    default = study_of(DemoSettings())
    assert (default.steps, default.rates) == (200, (1e-3,))


def test_training_commands_are_stock_nnunet():
    steps = steps_of()
    pretrain = ("nnUNetv2_train", "901", "demo", FOLD, "-tr", "nnUNetTrainerBDFMPretrain", "-p", PLANS)
    assert steps["pre-train"].command[: len(pretrain)] == pretrain


def test_labelled_plan_matches_the_checkpoint_that_fine_tuning_loads():
    command = steps_of()["plan and preprocess labelled"].command
    assert command[command.index("--weights") + 1] == study_of().arms[1].weights


@pytest.mark.parametrize("settings", [QUICK, DemoSettings()], ids=["quick", "default"])
def test_settings_are_ones_the_plans_accept(settings):
    blocks = settings_of(steps_of(settings)["set lengths unlabelled"])
    check_blocks(blocks)
    assert blocks["training"]["epochs"] >= 2
    study = study_of(settings)
    check_blocks({name: {key.partition(".")[2]: value for key, value in study.set.items() if key.startswith(name)}
                  for name in ("training", "finetuning")})  # fmt: skip


def test_every_setting_reaches_a_command():
    base = [step.as_shell() for step in steps_of().values()]
    for change in (
        {"network": "resenc"},
        {"gpu_memory": 3.0},
        {"seed": 5},
        {"device": "cuda"},
        {"pretraining": (("training.epochs", 3),)},
        {"finetuning": (("training.epochs", 3),)},
    ):
        assert [step.as_shell() for step in steps_of(replace(QUICK, **change)).values()] != base, change


def test_cohorts_have_the_asked_sizes_and_no_patient_twice(tmp_path):
    settings = replace(QUICK, unlabelled_cases=2, labelled_cases=1, test_cases=1)
    demonstration._make_cohorts(tmp_path, settings, workers=0, progress=None)
    names = {
        part: sorted(path.name for path in (tmp_path / "cohort" / part).iterdir() if path.is_dir())
        for part in ("unlabelled", "labelled", "test")
    }
    assert [len(cases) for cases in names.values()] == [2, 1, 1]
    assert len(set().union(*names.values())) == 4
    files = {part: len(list((tmp_path / "cohort" / part).rglob("*-seg.nii.gz"))) for part in names}
    assert files == {"unlabelled": 0, "labelled": 1, "test": 1}


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that is no earlier demonstration: name an empty"):
        run_demo(out=tmp_path, settings=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match=r"thesis\.txt holds something"):
        run_demo(out=tmp_path / "thesis.txt", settings=QUICK)


def test_earlier_demonstration_is_replaced_and_other_files_stay(tmp_path):
    out = demonstration._prepare(tmp_path / "out")
    (out / "work" / "old").mkdir(parents=True)
    (out / "summary.md").write_text("old")
    (out / "report.html").write_text("old")
    (out / "notes.txt").write_text("mine")
    demonstration._prepare(tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {".bdfm_demo", "notes.txt"}


def test_failing_step_is_told_with_its_log(tmp_path, monkeypatch):
    settings = replace(QUICK, unlabelled_cases=1, labelled_cases=1, test_cases=1, shape=(16, 16, 16), spacing=10.0)
    monkeypatch.setattr(demonstration, "RELEASE", "brats2023-men")
    monkeypatch.setattr(demonstration, "_cores", lambda: 1)
    with pytest.raises(InputError, match=r"'convert \w+' \(bdfm\) ended with exit code 2.*read .*convert_\w+\.log"):
        run_demo(out=tmp_path / "out", settings=settings)
    script = (tmp_path / "out" / "commands.sh").read_text()
    assert "nnUNetv2_train 901 demo 0" in script
    assert not (tmp_path / "out" / "summary.json").exists()
    assert subprocess.run(["sh", "-n", str(tmp_path / "out" / "commands.sh")], check=False).returncode == 0


@pytest.mark.slow
def test_whole_demonstration(tmp_path):
    out = tmp_path / "out"
    summary = run_demo(out=out, settings=QUICK)
    assert set(summary["segmentation"]) == {"from scratch", "fine-tuned"}
    for result in summary["segmentation"].values():
        assert set(result) == {"whole_tumor", "tumor_core", "enhancing_tumor"}
        assert all(0 <= region["dice"]["mean"] <= 1 for region in result.values())
    assert summary["test_cases"] == QUICK.test_cases
    assert len(summary["figures"]) == 4 and all((out / path).is_file() for path in summary["figures"].values())
    page = (out / "summary.md").read_text()
    assert "synthetic" in page and not re.search(r"\bnan\b", page)
    told = (out / "report.html").read_text()
    assert "fine-tuned minus from scratch, case by case" in told and "all lesions are synthetic" in told
    assert "Reconstruction" in told and told.count('<img src="data:image/png') == 1 + 3 * QUICK.test_cases
    assert len(list((out / "logs").iterdir())) == len(summary["seconds"]) - 1
    plans = sorted((out / "work" / "study").glob("tasks/*/trial_*/Dataset902_*/nnUNetTrainerBDFM__*/plans.json"))
    assert len(plans) == 2 and plans[0].read_bytes() == plans[1].read_bytes()
