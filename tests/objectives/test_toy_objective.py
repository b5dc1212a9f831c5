"""The seam of objectives: a new one is a file of under 60 lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFM
from tests.conftest import Prepared
from tests.objectives import toy_objective
from tests.objectives.toy_objective import OctantMeans, nnUNetTrainerOctants
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer

LENGTH = {"training.epochs": 2, "training.iterations_per_epoch": 6, "training.initial_lr": 0.003, "training.workers": 0}


def _make(prepared: Prepared, variant: str, block: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A trainer, with a "pretraining" block as it may stand in a plans file."""
    made = make_trainer(nnUNetTrainerOctants, prepared, prepared.unlabelled, variant, LENGTH | settings)
    plans = made.plans_manager.plans | {"continue_training": False}
    plans["configurations"][variant]["pretraining"] = block or {}
    return nnUNetTrainerOctants(plans, variant, 0, made.dataset_json, made.device)


@pytest.fixture(scope="module")
def whole(prepared_of_module: Prepared) -> Any:
    trainer = _make(prepared_of_module, "octants")
    trainer.run_training()
    return trainer


def test_it_is_one_short_file() -> None:
    assert len(Path(toy_objective.__file__).read_text().splitlines()) < 60


def test_it_trains_and_shows_its_monitor_and_picture(whole: Any) -> None:
    assert isinstance(whole.task.objective, OctantMeans)
    found = curves(whole)
    assert found["val_losses"][1] < found["val_losses"][0]
    assert len(found["error"]) == 2 and len(set(found["error_of_zero"])) == 1  # the same crops in every epoch
    folder = Path(whole.output_folder)
    summary = json.loads((folder / "pretraining_summary.json").read_text())
    assert summary["error"] == found["error"][-1]
    assert [path.name for path in sorted((folder / "reconstructions").iterdir())] == [
        "epoch_0001.png", "epoch_0002.png"
    ]  # fmt: skip
    assert (folder / "progress.png").is_file() and checkpoint(whole, "best").is_file()


@pytest.mark.parametrize("step", [1, 8])
def test_stopped_by_a_signal_it_goes_on_bit_for_bit(step: int, prepared: Prepared, whole: Any) -> None:
    assert_same_run(stopped_and_continued(lambda: _make(prepared, f"octants_{step}"), step=step), whole)


def test_micro_batches_take_their_samples_draws(prepared: Prepared) -> None:
    runs = []
    for accumulate in (1, 2):
        trainer = _make(prepared, f"octants_in_{accumulate}", **{"training.accumulate": accumulate})
        trainer.configuration_manager.configuration["architecture"]["arch_kwargs"]["drop_path_rate"] = 0.0
        trainer.run_training()
        runs.append(curves(trainer))
    for name, values in runs[0].items():
        assert runs[1][name] == pytest.approx(values, rel=1e-3), name


def test_its_settings_are_those_of_the_plans(prepared: Prepared, whole: Any) -> None:
    trainer = _make(prepared, "filled", {"fill": 3})
    assert trainer.task.settings.fill == 3.0 and whole.task.settings.fill == 0.0
    trainer.run_training()
    assert curves(trainer)["train_losses"] != curves(whole)["train_losses"]
    with pytest.raises(InputError, match=r"pretraining\.fil is not a setting: did you mean pretraining\.fill\?"):
        _make(prepared, "misspelt", {"fil": 3}).run_training()
    with pytest.raises(InputError, match=r"pretraining\.mask_ratio is a setting of the objective masked or sequence,"):
        _make(prepared, "masked", {"mask_ratio": 0.5}).run_training()


def test_fine_tuning_starts_from_it(prepared: Prepared, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(checkpoint(whole)))
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "from_octants", LENGTH)
    trainer.run_training()
    log = Path(trainer.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log and "have seen 2 of 2 validation" in log
    assert len(curves(trainer)["mean_fg_dice"]) == 2
