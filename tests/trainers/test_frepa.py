"""Frepa's whole run on the made-up cohort: its curve, going on, pictures, and fine-tuning from it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerFrepa
from tests.conftest import Prepared, point_to
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "frepa_curve.json"
LENGTH = {"training.epochs": 2, "training.iterations_per_epoch": 10, "training.initial_lr": 2e-3, "training.workers": 0}
NAMES = ("train_rmse", "train_gradient", "train_high_frequency", "train_consistency", "val_losses", "psnr", "recovered")


def _make(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerFrepa, prepared, prepared.unlabelled, variant, LENGTH | settings)


@pytest.fixture(scope="module")
def whole(_prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(_prepared_once.root, monkeypatch)
        monkeypatch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("frepa")))
        trainer = _make(_prepared_once, "frepa")
        trainer.run_training()
        yield trainer


@pytest.mark.usefixtures("figures")
def test_it_learns_and_reports(whole: Any) -> None:
    found = curves(whole)
    assert found["train_losses"][1] < found["train_losses"][0] and found["val_losses"][1] < found["val_losses"][0]
    assert found["psnr"][1] > found["psnr"][0]
    assert len(set(found["psnr_corrupted"])) == 1  # the same crops and corruptions in every epoch
    summary = json.loads((Path(whole.output_folder) / "pretraining_summary.json").read_text())
    assert summary["trainer"] == "nnUNetTrainerFrepa" and summary["recovered"] == found["recovered"][-1]
    whole.perform_actual_validation()
    assert "Reconstruction of held-out corrupted crops: PSNR" in Path(whole.log_file).read_text()


def test_golden_curve(whole: Any) -> None:
    """A change that should not alter results must not: 20 steps, one thread, within 0.2 % and 0.0002."""
    if os.environ.get("BDFM_WRITE_GOLDEN"):  # after a change that is meant to alter results
        GOLDEN.write_text(json.dumps({name: curves(whole)[name] for name in NAMES}, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert set(expected) == set(NAMES)
    for name, values in expected.items():
        assert curves(whole)[name] == pytest.approx(values, rel=2e-3, abs=2e-4), name


def test_stopped_by_a_signal_it_goes_on_bit_for_bit(prepared: Prepared, whole: Any) -> None:
    assert_same_run(stopped_and_continued(lambda: _make(prepared, "frepa_stopped"), step=13), whole)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("other_patch", {"patch_size": [24, 32, 24]}), ("other_spacing", {})],
)
def test_fine_tuning_starts_from_it(
    variant: str, changes: dict[str, Any], prepared: Prepared, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into labelled images of four channels, with another patch and with another spacing."""
    monkeypatch.setenv("BDFM_WEIGHTS", str(checkpoint(whole)))
    length = {"training.epochs": 1, "training.iterations_per_epoch": 2}
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, f"frepa_{variant}", length | changes)
    if variant == "other_spacing":
        plans = trainer.plans_manager.plans | {"continue_training": False}
        plans["configurations"][f"frepa_{variant}"]["spacing"] = [6.0, 2.0, 2.0]
        trainer = nnUNetTrainerBDFM(plans, f"frepa_{variant}", 0, trainer.dataset_json, trainer.device)
        assert trainer.configuration_manager.spacing != whole.configuration_manager.spacing
    else:
        assert trainer.configuration_manager.patch_size != whole.configuration_manager.patch_size
    trainer.run_training()
    log = Path(trainer.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log
    assert len(curves(trainer)["mean_fg_dice"]) == 1


def test_spacing_of_the_plans_reaches_the_objective(prepared: Prepared) -> None:
    trainer = _make(prepared, "frepa_spacing")
    trainer.initialize()
    assert list(trainer.task.objective.spacing) == trainer.configuration_manager.spacing != [1.0, 1.0, 1.0]


def test_legacy_is_the_published_preset(prepared: Prepared) -> None:
    trainer = _make(prepared, "frepa_legacy", **{"pretraining.legacy": True, "training.epochs": 1})
    trainer.run_training()
    settings = trainer.task.objective.settings
    assert settings.legacy_corruptions and settings.legacy_losses and "train_consistency" not in curves(trainer)


def test_settings_that_do_not_fit_are_refused(prepared: Prepared) -> None:
    with pytest.raises(InputError, match="mask_cutoff is 9"):
        _make(prepared, "frepa_cutoff", **{"pretraining.mask_cutoff": 9.0}).run_training()
    with pytest.raises(
        InputError, match=r"mask_ratio is a setting of the objective masked or sequence, not of frequency_corruption"
    ):
        _make(prepared, "frepa_masked", **{"pretraining.mask_ratio": 0.5}).run_training()
