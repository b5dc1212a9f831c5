"""What a training leaves of itself beside its checkpoints."""

import errno
import json
import multiprocessing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.results import RunResult, read_result
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared, threads_for_spawn
from tests.training.going_on import continued, killed
from tests.training.trainings import checkpoint, curves, make_trainer, pretrained_encoder


def _segmentation(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, settings)


def _result(trainer: Any) -> RunResult:
    return read_result(Path(trainer.output_folder) / trainer.task.summary_file)


def _log(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


def test_a_segmentation_tells_how_it_was_set_and_what_came_out(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = pretrained_encoder(prepared, tmp_path / "pretrained.pth")
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer = _segmentation(prepared, "told", **{"training.seed": 7, "finetuning.encoder_lr_factor": 0.5})
    trainer.run_training()
    found = _result(trainer)
    assert (found.kind, found.trainer) == ("segmentation", "nnUNetTrainerBDFM")
    assert found.settings is not None and found.curves is not None and found.cost is not None
    told = {name: found.settings[name] for name in ("plans", "configuration", "fold", "device", "processes")}
    assert told == {"plans": "BDFMPlans", "configuration": "told", "fold": 0, "device": "cpu", "processes": 1}
    assert found.settings["weights"] == trainer.origin.started_from and found.settings["weights"]["sha256"]
    assert found.settings["finetuning"]["encoder_lr_factor"] == 0.5
    training = found.settings["training"]
    assert (training["seed"], training["epochs"], training["optimizer"]) == (7, 2, "adamw")
    assert (training["initial_lr"], training["precision"]) == (1e-4, "fp32")
    logged = curves(trainer)
    assert {name: found.curves[name] for name in logged} == logged
    names = set(trainer.dataset_json["labels"]) - {"background"}
    dices = trainer.logger.local_logger.my_fantastic_logging["dice_per_class_or_region"]
    assert len(names) == len(dices[0]) and {f"pseudo_dice_{name}" for name in names} <= set(found.curves)
    first = list(trainer.dataset_json["labels"])[1]
    # a label that no crop of an epoch holds has no Dice
    assert found.curves[f"pseudo_dice_{first}"] == [None if d[0] != d[0] else d[0] for d in dices]
    parameters = sum(each.numel() for each in trainer.network.parameters())
    assert (found.cost.epochs, found.cost.steps, found.cost.parameters) == (2, 6, parameters)
    assert found.cost.seconds == pytest.approx(sum(v or 0 for v in found.curves["seconds"])) and found.cost.seconds > 0


def test_exposure_is_counted_and_listed_in_the_checkpoint_alone(prepared: Prepared) -> None:
    trainer = _segmentation(prepared, "counted", **{"training.epochs": 1})
    trainer.run_training()
    exposure = _result(trainer).exposure
    train, val = trainer.do_split()
    assert exposure is not None and exposure["note"] is None
    assert [(run["train"], run["val"]) for run in exposure["runs"]] == [(len(train), len(val))]
    assert exposure["runs"][0]["trainer"] == "nnUNetTrainerBDFM"
    assert _result(trainer).settings["weights"] is None  # type: ignore[index]


def test_an_interrupted_training_leaves_the_same_result(prepared: Prepared) -> None:
    whole = _segmentation(prepared, "whole")
    whole.run_training()
    make = partial(_segmentation, prepared, "interrupted")
    halfway = _result(killed(make, step=5))  # in the middle of the second epoch
    assert halfway.cost is not None and halfway.cost.epochs == 1
    ours, theirs = (_plain(_result(trainer)) for trainer in (continued(make, done=3), whole))
    assert ours == theirs


def _plain(result: RunResult) -> dict[str, Any]:
    """Without names of the run, its duration, and the hashes and sessions of `test_run_provenance`."""
    content = json.loads(json.dumps(result.as_dict()).replace('"interrupted"', '"whole"'))
    del content["curves"]["seconds"], content["cost"]["seconds"], content["provenance"]
    return dict(content)


@pytest.mark.parametrize("kind", [nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain])
def test_a_full_disk_is_a_warning(kind: type, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(kind, prepared, prepared.labelled, "full", {"training.epochs": 1})
    write_text = Path.write_text

    def full(path: Path, *content: Any, **how: Any) -> int:
        if path.name.endswith("_summary.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *content, **how)

    monkeypatch.setattr(Path, "write_text", full)
    trainer.run_training()
    assert checkpoint(trainer).is_file()
    folder = Path(trainer.output_folder)
    assert not (folder / trainer.task.summary_file).exists() and not list(folder.glob(".*.partial.*"))
    warning = f"WARNING: training goes on without a new {trainer.task.summary_file}: cannot write"
    assert warning in _log(trainer) and "free some space" in _log(trainer)


def test_only_the_first_process_writes(prepared: Prepared) -> None:
    trainer = _segmentation(prepared, "second")
    trainer.initialize()
    trainer.task.end_epoch = lambda: None
    trainer.local_rank = 1
    trainer.on_epoch_end()
    assert not (Path(trainer.output_folder) / "training_summary.json").exists()


def test_weights_of_unknown_origin_are_null(prepared: Prepared) -> None:
    trainer = _segmentation(prepared, "origin", **{"training.epochs": 1})
    trainer.initialize()
    next(trainer.network.parameters()).data.add_(1)
    trainer.run_training()
    settings = _result(trainer).settings
    assert settings is not None and settings["weights"] == {"name": None, "sha256": None}


def test_pretraining_tells_the_same(prepared: Prepared) -> None:
    settings = {"training.epochs": 1, "pretraining.mask_ratio": 0.5}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "told", settings)
    trainer.run_training()
    found = _result(trainer)
    assert found.kind == "pretraining" and found.settings is not None
    assert found.settings["pretraining"]["mask_ratio"] == 0.5 and "finetuning" not in found.settings
    assert found.curves is not None and found.curves.keys() == {*curves(trainer), "seconds"}
    assert found.extra["loss_first"] == found.curves["train_losses"][0]


def _one_step(prepared: Prepared, variant: str) -> Any:
    trainer = _segmentation(prepared, variant, **{"training.epochs": 1, "training.iterations_per_epoch": 1})
    trainer.run_training()
    return trainer


def test_the_final_validation_adds_its_scores(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _one_step(prepared, "validated")
    assert _result(trainer).scores is None
    trainer.inference_allowed_mirroring_axes = None  # eight times as fast
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    trainer.run.validate_finished = lambda validate: validate()  # without worker processes
    trainer.perform_actual_validation()
    found = _result(trainer)
    theirs = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    assert found.scores is not None and found.curves is not None and len(found.curves["train_losses"]) == 1
    assert sorted(row["case"] for row in found.scores["cases"]) == sorted(trainer.do_split()[1])
    names = [name for name in trainer.dataset_json["labels"] if name != "background"]
    assert list(found.scores["summary"]) == names
    for name, key in zip(names, theirs["mean"]):
        assert found.scores["summary"][name]["dice"]["mean"] == pytest.approx(theirs["mean"][key]["Dice"])


def test_validating_an_earlier_checkpoint_leaves_the_curves(prepared: Prepared) -> None:
    trainer = _one_step(prepared, "earlier")
    before = _result(trainer)
    for values in trainer.logger.local_logger.my_fantastic_logging.values():
        values.clear()  # as of checkpoint_best.pth, which was written before
    case = {"case": "a", "regions": {"core": {"dice": 0.5}}}
    scores = {"metrics": "nnunet", "summary": {"core": {"dice": dict.fromkeys(("mean", "low", "high"), 0.5)}}}
    trainer.task._scores = lambda: scores | {"cases": [case]}
    trainer.run.validate_finished = lambda validate: None
    trainer.perform_actual_validation()
    after = _result(trainer)
    assert after == replace(before, scores=scores | {"cases": [case]}, provenance=after.provenance)
    (Path(trainer.output_folder) / "training_summary.json").write_text("{")
    trainer.perform_actual_validation()
    assert "WARNING: the scores of the validation are not in training_summary.json: " in _log(trainer)
