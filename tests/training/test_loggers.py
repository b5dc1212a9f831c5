"""What is logged, once for each epoch however often a run is interrupted; what is missing or fails."""

import gc
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imsave
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import TrainingSettings, read_block
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain
from bdfm_nnunet.training import loggers
from bdfm_nnunet.training.loggers import add_loggers, chosen_loggers
from tests.conftest import Prepared
from tests.training.logger_doubles import MlflowClient, install
from tests.training.trainings import make_trainer

NAMES = ("tensorboard", "wandb", "mlflow")
ALL = TrainingSettings(loggers=NAMES)


class StandIn:
    """As much of a trainer as logging needs."""

    def __init__(self, folder: Path, training: TrainingSettings = ALL, *, rank: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.output_folder, self.training, self.local_rank = str(folder), training, rank
        self.logger = MetaLogger(str(folder), False)
        self.current_epoch, self.resumed, self.fold = 0, False, 0
        self.configuration_name, self.plans_manager = "3d_fullres", SimpleNamespace(dataset_name="Dataset001_Toy")
        self.label_manager = SimpleNamespace(has_regions=False, foreground_labels=[1])
        self.dataset_json = {"labels": {"background": 0, "lesion": 1}}
        self.told: list[str] = []
        add_loggers(self)

    def print_to_log_file(self, *words: Any) -> None:
        self.told.append(" ".join(map(str, words)))

    def epoch(self) -> None:
        """Log an epoch in nnU-Net's order, and a picture after its end."""
        epoch, log = self.current_epoch, self.logger.log
        log("epoch_start_timestamps", 100.0 + epoch, epoch)
        log("train_losses", 1.0 / (epoch + 1), epoch)
        log("dice_per_class_or_region", [0.5 + 0.01 * epoch], epoch)
        log("mean_fg_dice", np.float32(0.5), epoch)
        log("epoch_end_timestamps", 103.0 + epoch, epoch)
        path = Path(self.output_folder) / f"epoch_{epoch + 1:04d}.png"
        imsave(path, np.zeros((4, 6, 3)))
        for logger in self.logger.loggers:
            logger.log_picture("reconstructions", path, epoch)
        self.current_epoch += 1

    def goes_on(self, epochs: int) -> "StandIn":
        """The same training, continued from a checkpoint after so many epochs."""
        other = StandIn(Path(self.output_folder), self.training)
        curves = {name: values[:epochs] for name, values in self.logger.get_checkpoint().items()}
        other.logger.load_checkpoint(curves)
        other.current_epoch, other.resumed = epochs, True
        return other


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("BDFM_LOGGERS", raising=False)
    monkeypatch.setattr(loggers, "settings_of", lambda trainer: {"dataset": "Toy", "training": {"epochs": 4}})
    return install(monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_every_epoch_has_its_curves_and_its_picture(name: str, opened: Any, tmp_path: Path) -> None:
    trainer = StandIn(tmp_path / "fold_0")
    for _ in range(3):
        trainer.epoch()
    (run,) = opened[name]
    assert sorted(run.values) == [0, 1, 2]
    assert run.values[1] == {
        "train_losses": 0.5, "mean_fg_dice": 0.5, "ema_fg_dice": 0.5, "pseudo_dice_lesion": 0.51, "seconds": 3.0,
    }  # fmt: skip
    assert run.pictures == [("reconstructions", epoch) for epoch in range(3)]
    assert run.ends == []
    trainer.logger.log_summary("final_val/class_1_dice", 0.75)
    assert run.summary == {"final_val/class_1_dice": 0.75}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_ends_with_its_trainer_and_only_once(name: str, opened: Any, tmp_path: Path) -> None:
    trainer = StandIn(tmp_path / "fold_0")
    trainer.epoch()
    for logger in trainer.logger.loggers:
        logger.close()
    trainer.epoch()  # is not logged any more
    del trainer
    gc.collect()
    assert len(opened[name][0].ends) == 1 and sorted(opened[name][0].values) == [0]
    forgotten = StandIn(tmp_path / "fold_1")
    forgotten.epoch()
    del forgotten
    gc.collect()
    assert len(opened[name][1].ends) == 1


def test_settings_and_places(opened: Any, tmp_path: Path) -> None:
    folder = tmp_path / "fold_0"
    StandIn(folder).epoch()
    board, wandb, mlflow = (opened[name][0].options for name in NAMES)
    assert board["log_dir"] == str(folder / "loggers" / "tensorboard") and '"epochs": 4' in board["settings"]
    assert wandb["dir"] == str(folder / "loggers") and wandb["config"]["training"] == {"epochs": 4}
    assert (wandb["mode"], wandb["id"], wandb["resume"]) == ("offline", None, None)
    assert mlflow["tracking_uri"] == f"sqlite:///{folder / 'loggers' / 'mlflow.db'}"
    assert mlflow["artifact_location"] == (folder / "loggers" / "mlflow_artifacts").as_uri()
    assert mlflow["params"] == {"dataset": "Toy", "training.epochs": "4"}


def test_their_own_variables_say_where_to(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("WANDB_MODE", "online"), ("WANDB_PROJECT", "mine"), ("MLFLOW_TRACKING_URI", "http://x")):
        monkeypatch.setenv(variable, value)
    first = StandIn(tmp_path / "fold_0")
    first.epoch()
    first.goes_on(1).epoch()
    assert [run.options["resume"] for run in opened["wandb"]] == [None, "allow"]
    assert opened["wandb"][0].options["project"] == "mine" and opened["wandb"][0].options["mode"] == "online"
    assert opened["mlflow"][0].options["tracking_uri"] == "http://x"
    assert opened["mlflow"][0].options["artifact_location"] is None


@pytest.mark.parametrize("checkpoint", [3, 2, 1])
def test_a_run_that_goes_on_repeats_no_epoch(checkpoint: int, opened: Any, tmp_path: Path) -> None:
    """Three epochs are logged; the checkpoint is of then or before."""
    first = StandIn(tmp_path / "fold_0")
    for _ in range(3):
        first.epoch()
    second = first.goes_on(checkpoint)
    for _ in range(5 - checkpoint):
        second.epoch()
    for name in ("wandb", "mlflow"):
        before, after = opened[name]
        assert sorted(before.values) == [0, 1, 2] and sorted(after.values) == [3, 4]
        assert after.pictures == [("reconstructions", epoch) for epoch in (3, 4)]
    assert opened["wandb"][1].options["id"] == "run1" and opened["mlflow"][1].options["run"] == "run1"
    assert len(set(MlflowClient.history)) == len(MlflowClient.history)
    board = opened["tensorboard"][1]  # hides what it has from there on
    assert board.options["purge_step"] == checkpoint and sorted(board.values) == list(range(checkpoint, 5))


def test_what_a_logger_lacks_is_sent_first(opened: Any, tmp_path: Path) -> None:
    first = StandIn(tmp_path / "fold_0", TrainingSettings())
    for _ in range(3):
        first.epoch()
    first.training = ALL
    first.goes_on(3).epoch()
    for name in NAMES:
        (run,) = opened[name]
        assert sorted(run.values) == [0, 1, 2, 3] and run.values[0]["train_losses"] == 1.0


def test_a_new_training_in_the_same_folder_is_a_new_run(opened: Any, tmp_path: Path) -> None:
    for _ in range(2):
        StandIn(tmp_path / "fold_0").epoch()
    assert [run.options["id"] for run in opened["wandb"]] == [None, None]
    assert [run.options["purge_step"] for run in opened["tensorboard"]] == [0, 0]
    assert all(sorted(run.values) == [0] for name in NAMES for run in opened[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_mid_run_is_a_warning(
    name: str, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = StandIn(tmp_path / "fold_0", TrainingSettings(loggers=(name,)))
    trainer.epoch()

    def fail(*values: Any) -> None:
        raise ConnectionError("the server\nis gone")

    monkeypatch.setattr(loggers.WRITERS[name], "scalars", fail)
    trainer.epoch()
    trainer.epoch()
    (warning,) = trainer.told
    assert warning.startswith(f"WARNING: {name} logs no more") and "ConnectionError: the server is gone" in warning
    assert sorted(opened[name][0].values) == [0]
    assert len(trainer.logger.get_value("train_losses", None)) == 3


def test_a_fault_at_the_start_ends_a_new_run_and_only_warns_one_that_goes_on(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = StandIn(tmp_path / "fold_0")
    first.epoch()

    def fail(self: Any, place: Any) -> None:
        raise PermissionError("no login")

    monkeypatch.setattr(loggers.WandbWriter, "__init__", fail)
    second = first.goes_on(1)
    second.epoch()
    assert "wandb logs no more" in second.told[0] and sorted(opened["mlflow"][1].values) == [1]
    with pytest.raises(InputError, match=r"wandb cannot log to .*loggers \(PermissionError: no login\)"):
        StandIn(tmp_path / "fold_1").epoch()


@pytest.mark.parametrize("name", NAMES)
def test_a_package_that_is_missing_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == name else find(asked))
    for rank in (0, 1):
        with pytest.raises(InputError, match=rf"{name} is not installed.*pip install 'bdfm_nnunet\[{name}\]'"):
            StandIn(tmp_path / "fold_0", TrainingSettings(loggers=(name,)), rank=rank)


def test_the_variable_overrides_the_plans(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TrainingSettings(loggers=("mlflow",))
    assert chosen_loggers(asked) == ("mlflow",) and chosen_loggers(TrainingSettings()) == ()
    for value, expected in (
        ("none", ()),
        ("", ()),
        ("wandb", ("wandb",)),
        (" tensorboard, wandb,wandb ", ("tensorboard", "wandb")),
    ):
        monkeypatch.setenv("BDFM_LOGGERS", value)
        assert chosen_loggers(asked) == expected
    monkeypatch.setenv("BDFM_LOGGERS", "tensorbord")
    with pytest.raises(InputError, match=r"BDFM_LOGGERS=tensorbord: .*'tensorboard', 'wandb', 'mlflow'"):
        chosen_loggers(asked)
    with pytest.raises(InputError, match=r"training\.loggers is \['wand'\], expected a list of one of 'tensorboard'"):
        read_block({"training": {"loggers": ["wand"]}}, "training")


def test_nnunets_own_wandb_is_not_doubled(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    assert chosen_loggers(TrainingSettings(loggers=("mlflow",))) == ("mlflow",)
    with pytest.raises(InputError, match="both ask for wandb"):
        chosen_loggers(ALL)


def test_only_the_first_process_logs(opened: Any, tmp_path: Path) -> None:
    trainer = StandIn(tmp_path / "fold_0", rank=1)
    trainer.epoch()
    assert trainer.logger.loggers == [] and not any(opened.values())


def test_a_pretraining_logs_terms_monitors_and_pictures(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, figures: None
) -> None:
    opened = install(monkeypatch)
    settings = {"training.loggers": list(NAMES), "pretraining.picture_every": 1}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "logged", settings)
    trainer.run_training()
    for name in NAMES:
        (run,) = opened[name]
        assert sorted(run.values) == [0, 1]
        wanted = {"train_losses", "train_pixel", "val_losses", "val_frequency", "psnr", "hfen", "lrs", "seconds"}
        assert wanted <= set(run.values[1])
        assert run.pictures == [("reconstructions", 0), ("reconstructions", 1)]
    assert opened["wandb"][0].options["config"]["training"]["iterations_per_epoch"] == 3


# --- the real packages, where they are installed ----------------------------------------------------------------------


def _interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> StandIn:
    """Two epochs, a checkpoint after the first of which is taken up, and two more."""
    monkeypatch.setattr(loggers, "settings_of", lambda trainer: {"dataset": "Toy", "training": {"epochs": 4}})
    first = StandIn(tmp_path / "fold_0", TrainingSettings(loggers=(name,)))
    first.epoch()
    first.epoch()
    first.logger.loggers[0].close()
    second = first.goes_on(1)
    second.epoch()
    second.epoch()
    second.logger.log_summary("final_val/class_1_dice", 0.75)
    second.logger.loggers[0].close()
    assert second.told == []
    return second


def test_tensorboard_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _interrupted(tmp_path, monkeypatch, "tensorboard")
    events = EventAccumulator(str(tmp_path / "fold_0" / "loggers" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train_losses")] == [0, 1, 2]
    assert events.Scalars("summary/final_val/class_1_dice")[0].value == 0.75
    assert [event.step for event in events.Images("reconstructions")] == [0, 1, 2]


def test_mlflow_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _interrupted(tmp_path, monkeypatch, "mlflow")
    folder = tmp_path / "fold_0" / "loggers"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bdfm_nnunet")
    (run,) = client.search_runs([experiment.experiment_id])
    assert sorted(m.step for m in client.get_metric_history(run.info.run_id, "train_losses")) == [0, 1, 2]
    assert run.data.params["training.epochs"] == "4" and run.data.metrics["final_val/class_1_dice"] == 0.75
    assert len(list((folder / "mlflow_artifacts").rglob("epoch_*.png"))) == 3


def test_wandb_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    _interrupted(tmp_path, monkeypatch, "wandb")
    runs = [path.name.rpartition("-")[2] for path in (tmp_path / "fold_0/loggers/wandb").glob("offline-run-*")]
    assert len(runs) == 2 and len(set(runs)) == 1
