"""The seam of tasks: a new one is a file of under 60 lines."""

from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checkpoints import read_checkpoint
from tests.conftest import Prepared
from tests.tasks import toy_task
from tests.tasks.toy_task import nnUNetTrainerCaseMean
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer, pretrained_encoder

LENGTH = {"training.epochs": 2, "training.iterations_per_epoch": 6, "training.initial_lr": 0.01, "training.workers": 0}


def _make(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerCaseMean, prepared, prepared.labelled, variant, LENGTH | settings)


@pytest.fixture(scope="module")
def whole(prepared_of_module: Prepared) -> Any:
    trainer = _make(prepared_of_module, "means")
    trainer.run_training()
    return trainer


def test_it_is_one_short_file() -> None:
    assert len(Path(toy_task.__file__).read_text().splitlines()) < 60


def test_it_trains_validates_and_saves(whole: Any) -> None:
    found = curves(whole)
    assert found["val_losses"][1] < found["val_losses"][0] and found["train_losses"][1] < found["train_losses"][0]
    assert len(found["absolute"]) == 2
    assert whole._best_ema == -min(found["val_losses"])
    assert {path.name for path in Path(whole.output_folder).glob("*.pth")} == {
        "checkpoint_best.pth", "checkpoint_final.pth"
    }  # fmt: skip
    kept = read_checkpoint(checkpoint(whole))
    assert kept.trainer == "nnUNetTrainerCaseMean" and "head.weight" in kept.weights
    assert len(kept.exposure["runs"][0]["train"]["case"]) == 4
    whole.perform_actual_validation()
    log = Path(whole.log_file).read_text()
    assert "absolute " in log and "Training from scratch" in log


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 8])
def test_stopped_by_a_signal_it_goes_on_bit_for_bit(step: int, prepared: Prepared, whole: Any) -> None:
    assert_same_run(stopped_and_continued(lambda: _make(prepared, f"means_{step}"), step=step), whole)


def test_it_starts_from_pretrained_weights(
    prepared: Prepared, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained_encoder(prepared, tmp_path / "pretrained.pth")))
    trainer = _make(prepared, "pretrained_means", **{"finetuning.encoder_lr_factor": 0.1, "training.accumulate": 2})
    trainer.run_training()
    log = Path(trainer.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log
    assert {group["peak_lr"] for group in trainer.optimizer.param_groups} == {0.01, 0.001}
    assert curves(trainer)["train_losses"] != curves(whole)["train_losses"]
