"""What an earlier commit wrote goes on today: its checkpoints, its plans, its pre-trained weights.

tests/golden/before was written by write_before.py with the code of commit 40a367a.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.nnunet_folders import trainer_search_path
from bdfm_nnunet.plans.plans_lookup import read_plans
from tests.conftest import Prepared
from tests.training.write_before import (
    BLOCKS,
    PLANS,
    RUNS,
    STOPPED_AFTER,
    cases_of,
    curves,
    machine,
    make_trainer,
    network_of,
    report_of,
)

BEFORE = Path(__file__).parents[1] / "golden" / "before"
FOUND: dict[str, Any] = json.loads((BEFORE / "found.json").read_text())
STEPS = BLOCKS["training"]["iterations_per_epoch"]


@pytest.fixture
def folders(prepared: Prepared) -> dict[int, Path]:
    """The prepared data sets with the plans of before, which name the same preprocessed cases."""
    found = {number: prepared.folder("nnUNet_preprocessed", number) for number in set(RUNS.values())}
    for number, folder in found.items():
        shutil.copy(BEFORE / str(number) / f"{PLANS}.json", folder)
    return found


def _assert_same(now: Any, before: Any, name: str = "") -> None:
    """To the bit where the last bits of sums are the same, else as near as two processors are."""
    if machine() == FOUND["machine"]:
        assert now == before, name
        return
    near = {"rel": 2e-3, "abs": 1e-6}
    assert torch.tensor(now).numpy() == pytest.approx(torch.tensor(before).numpy(), **near), name


def test_the_files_are_small() -> None:
    """They are read by every clone."""
    sizes = {path.name: path.stat().st_size for path in BEFORE.rglob("*") if path.is_file()}
    assert len(sizes) == 6 and max(sizes.values()) < 300_000 and sum(sizes.values()) < 1_500_000


@pytest.mark.parametrize("number", sorted(set(RUNS.values())))
def test_the_cohort_is_converted_and_preprocessed_as_before(number: int, folders: dict[int, Path]) -> None:
    now, before = cases_of(folders[number]), FOUND["cases"][str(number)]
    assert list(now) == list(before) and len(now) == 12
    for name in before:
        _assert_same([now[name]["mean"], now[name]["std"]], [before[name]["mean"], before[name]["std"]], name)
        if machine() == FOUND["machine"]:
            assert now[name]["digest"] == before[name]["digest"], name
    today, then = (json.loads(path.read_text()) for path in (folders[number] / "dataset.json",
                                                            BEFORE / str(number) / "dataset.json"))  # fmt: skip
    assert today == then


@pytest.mark.parametrize("number", sorted(set(RUNS.values())))
@pytest.mark.parametrize("configuration", ["3d_fullres", "tiny"])
def test_plans_of_before_build_the_same_network(number: int, configuration: str, folders: dict[int, Path]) -> None:
    before = FOUND["networks"][str(number)][configuration]
    now = network_of(read_plans(number, PLANS), configuration)
    assert now["tensors"] == before["tensors"]
    _assert_same(now["output"], before["output"])
    if machine() == FOUND["machine"]:
        assert now["weights"] == before["weights"]


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_before_goes_on_to_the_same_losses(name: str, folders: dict[int, Path]) -> None:
    trainer = make_trainer(name, folders[RUNS[name]])
    trainer.load_checkpoint(str(BEFORE / f"{name}.pth"))
    assert (trainer.current_epoch, trainer.run.steps_done) == (1, STOPPED_AFTER)
    steps: list[int] = []
    train_step = trainer.train_step

    def stepping(batch: Any) -> Any:
        terms = train_step(batch)
        steps.append(trainer.run.step_number)
        return terms

    trainer.train_step = stepping
    trainer.run_training()
    assert steps == [*range(STOPPED_AFTER + 1, 2 * STEPS + 1)]
    now, before = curves(trainer), FOUND["curves"][name]
    assert now.keys() >= before.keys() and len(before["train_losses"]) == 2  # later monitors have begun since
    for curve, values in before.items():
        _assert_same(now[curve], values, curve)


def test_pretrained_weights_of_before_load_with_the_same_report(
    folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = BEFORE / "nnUNetTrainerBDFMPretrain.pth"
    report = report_of(folders[502], weights)
    assert report == FOUND["report"] and report["encoder_share"] == 1.0
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer = make_trainer("nnUNetTrainerBDFM", folders[502])
    trainer.on_train_start()
    ours, theirs = trainer.network.state_dict(), read_checkpoint(weights).weights
    assert all(torch.equal(ours[name], theirs[name]) for name in report["loaded"]) and report["loaded"]
    log = Path(trainer.log_file).read_text()
    assert f"the weights of {weights.name} have seen 2 of 2 validation cases" in log
    seen = [run["trainer"] for run in trainer.data.exposure.as_dict()["runs"]]
    assert seen == ["nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_stock_command_continues_what_an_earlier_one_began(
    name: str, folders: dict[int, Path], tmp_path: Path
) -> None:
    folder = folders[RUNS[name]]
    fold = tmp_path / "nnUNet_results" / folder.name / f"{name}__{PLANS}__tiny" / "fold_0"
    fold.mkdir(parents=True)
    shutil.copy(BEFORE / f"{name}.pth", fold / "checkpoint_latest.pth")
    command = [Path(sys.executable).with_name("nnUNetv2_train"), str(RUNS[name]), "tiny", "0", "-tr", name,
               "-p", PLANS, "-device", "cpu", "--c"]  # fmt: skip
    environ = os.environ | {"nnUNet_extTrainer": trainer_search_path(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Continuing after step {STOPPED_AFTER - STEPS} of epoch 2." in done.stdout
    logged = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["logging"]
    for curve, values in FOUND["curves"][name].items():
        _assert_same(torch.tensor(logged[curve], dtype=torch.float64).tolist(), values, curve)
