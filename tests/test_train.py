"""What `bdfm train` makes of its arguments and of the checkpoints that it finds."""

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bdfm_nnunet import cli, train
from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.training.signals import TrainingPaused
from tests.conftest import Prepared
from tests.training.trainings import SHORT

WHAT = ["501", "train_entry", "0", "-tr", "nnUNetTrainerBDFMPretrain", "-p", "BDFMPlans", "-device", "cpu"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", "")


@pytest.fixture
def variant(prepared: Prepared) -> Prepared:
    from bdfm_nnunet.plans import add_variant

    add_variant(501, variant="train_entry", settings=SHORT)
    return prepared


def _folder() -> Path:
    name = "nnUNetTrainerBDFMPretrain__BDFMPlans__train_entry"
    (folder,) = Path(os.environ["nnUNet_results"]).glob(f"*/{name}/fold_0")
    return folder


def test_train_pause_and_continue(variant: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingPaused) as paused:
        cli.main(["train", *WHAT, "--max-hours", "1e-6"])
    assert paused.value.code == 75
    assert "the time of max_hours is up" in capsys.readouterr().out
    assert read_checkpoint(_folder() / "checkpoint_latest.pth").progress["iteration"] == 1
    assert train.main([*WHAT, "--c"]) == 0
    assert "Reconstruction of held-out crops" in capsys.readouterr().out
    assert sorted(path.name for path in _folder().glob("*.pth")) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    assert train.main([*WHAT, "--val", "--val_best"]) == 0


def test_stock_trainers_are_trained_too(variant: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    done: list[str] = []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: done.append("trained"))
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, npz: done.append(f"npz {npz}"))
    stock = ["nnUNetTrainer" if word.startswith("nnUNetTrainer") else word for word in WHAT]
    assert train.main([*stock, "--npz", "--disable_checkpointing"]) == 0
    assert done == ["trained", "npz True"]
    assert train.main([*stock, "--max-hours", "1"]) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({0: "777"}, "nnU-Net cannot make this trainer: Could not find a dataset with the ID 777"),
        ({0: "Brain"}, "must either be an integer"),
        ({1: "3d_none"}, "3d_none"),
        ({2: "first"}, "the fold is 'first', expected a number or `all`"),
        ({4: "nnUNetTrainerNone"}, "nnUNetTrainerNone"),
        ({6: "NoPlans"}, "NoPlans.json does not exist: plan the data set first"),
        ({9: "--c", 10: "--val"}, "--c and --val exclude each other"),
        ({9: "--max-hours", 10: "-1"}, "--max-hours is -1.0, expected a number above 0"),
        ({9: "--val"}, "the training is not finished"),
    ],
)
def test_bad_input_is_one_sentence(
    change: dict[int, str], sentence: str, variant: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*WHAT, *[""] * 2]
    for place, word in change.items():
        arguments[place] = word
    assert train.main([word for word in arguments if word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bdfm: error: ") and sentence in line


def test_several_gpus_become_torchrun(variant: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def become(program: str, command: list[str]) -> None:
        seen.append((program, command))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", become)
    with pytest.raises(SystemExit):
        train.main([*WHAT, "-num_gpus", "3"])
    ((program, command),) = seen
    assert program == command[0] == sys.executable
    assert command[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3",
        "-m", "bdfm_nnunet.train", *WHAT, "-num_gpus", "3",
    ]  # fmt: skip


def test_num_gpus_must_not_contradict_torchrun(
    variant: Prepared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train.main([*WHAT, "-num_gpus", "3"]) == 2
    assert "-num_gpus 3 contradicts the 2 processes started" in capsys.readouterr().err


class _Store:
    def __init__(self) -> None:
        self.count = 0

    def add(self, key: str, amount: int) -> int:
        self.count += amount
        return self.count


def test_only_the_first_of_several_processes_tells_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    store = [_Store()]
    train._tell("one", store)
    train._tell("two", store)
    train._tell("alone", [])
    assert capsys.readouterr().err == "bdfm: error: one\nbdfm: error: alone\n"


# --------------------------------------------------------------------------------------------------- checkpoints


def _write(folder: Path, ages: dict[str, float]) -> None:
    for name, age in ages.items():
        path = folder / f"checkpoint_{name}.pth"
        path.write_bytes(b"")
        os.utime(path, (1e9 - age, 1e9 - age))


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ({"final": 0, "best": 5}, "final"),
        ({"latest": 0, "previous": 1, "best": 2}, "latest"),
        ({"previous": 1, "best": 2}, "previous"),
        ({"best": 2}, "best"),
        ({"final": 9, "latest": 0}, "latest"),  # the final one is of a run before this
        ({"final": 0, "latest": 9}, "final"),
        ({}, None),
    ],
)
def test_which_checkpoint_continues(ages: dict[str, float], expected: str | None, tmp_path: Path) -> None:
    _write(tmp_path, ages)
    trainer = SimpleNamespace(output_folder=str(tmp_path))
    found = train._checkpoint_to_continue(trainer, True)
    assert (found and found.name) == (expected and f"checkpoint_{expected}.pth")


def test_a_group_that_was_started_anew_continues_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what this very run has written, not with what lay there before."""
    trainer = SimpleNamespace(output_folder=str(tmp_path))
    _write(tmp_path, {"final": 1, "latest": 2})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    assert train._checkpoint_to_continue(trainer, False) is None  # the first start, without --c: anew
    assert train._checkpoint_to_continue(trainer, False) is None  # lost before it wrote any
    os.utime(tmp_path / "checkpoint_latest.pth")
    assert train._checkpoint_to_continue(trainer, False) == tmp_path / "checkpoint_latest.pth"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job8")
    assert train._checkpoint_to_continue(trainer, False) is None  # another job, without --c
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun on one machine names none, but counts
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    os.utime(tmp_path / "checkpoint_latest.pth")
    assert train._checkpoint_to_continue(trainer, False) == tmp_path / "checkpoint_latest.pth"


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerBDFM", "nnUNetTrainerBDFMPretrain"])
def test_pretrained_weights_are_loaded_as_data(
    trainer: str, variant: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "was_run"

    class Bomb:
        def __reduce__(self) -> tuple[Any, Any]:
            return Path.touch, (marker,)

    weights = {"network_weights": {"a": torch.ones(1)}}
    contents = {"bomb": weights | {"more": Bomb()}, "other": weights, "odd": {"network_weights": 5}, "none": {"a": 1}}
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
        what = [*WHAT[:4], trainer, *WHAT[5:], "-pretrained_weights", str(tmp_path / f"{name}.pth")]
        assert train.main(what) == 2
        error = capsys.readouterr().err
        assert f"{name}.pth" in error and "Traceback" not in error and error.count("\n") == 1
    assert not marker.exists()


def test_the_plug_in_closes_the_doors_of_stock_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdfm_nnunet.checkpoints import nnunet_loading

    monkeypatch.setattr(torch, "load", torch.load)  # put back afterwards
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    sys.modules.pop("bdfm_nnunet.nnunet_plugin.bdfm_nnunet_trainers", None)
    importlib.import_module("bdfm_nnunet.nnunet_plugin.bdfm_nnunet_trainers")
    assert torch.load is nnunet_loading._load_as_data_instead
