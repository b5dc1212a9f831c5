"""What trainers write about the cases they see, and the warning of fine-tuning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.nnunet_loading import loading_as_data
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, exposure_report
from bdfm_nnunet.plans import write_initial_checkpoint
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.training.trainings import checkpoint, make_trainer


def _saved(trainer: Any) -> Path:
    if not trainer.was_initialized:
        trainer.initialize()
    for key in ("epoch_start_timestamps", "epoch_end_timestamps"):
        trainer.logger.log(key, 0.0, 0)
    path = checkpoint(trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(path))
    return path


def _pretrainer(prepared: Prepared, variant: str = "exposure") -> Any:
    return make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, variant, {})


def _finetuner(prepared: Prepared, variant: str) -> Any:
    return make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, {})


def _exposure(path: Path) -> Exposure:
    return Exposure.of_checkpoint(read_checkpoint(path))


def _log(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


@pytest.fixture
def pretrained(prepared: Prepared) -> Path:
    return _saved(_pretrainer(prepared))


def test_checkpoint_names_the_cases_of_its_fold(prepared: Prepared, pretrained: Path) -> None:
    (run,) = _exposure(pretrained).runs
    folder = prepared.folder("nnUNet_raw", prepared.unlabelled)
    split = json.loads((folder / "splits_final.json").read_text())[0]
    rows = {row["case"]: row for row in json.loads((folder / "manifest.json").read_text())["cases"]}
    for part in ("train", "val"):
        assert run[part]["case"] == sorted(split[part])
        assert run[part]["patient"] == [rows[case]["patient"] for case in sorted(split[part])]
        images = [{v for k, v in rows[case]["sha256"].items() if k != "label"} for case in sorted(split[part])]
        assert [set(hashes) for hashes in run[part]["sha256"]] == images and len(images[0]) == 4
    assert (run["trainer"], run["fold"], run["dataset"]) == ("nnUNetTrainerBDFMPretrain", "0", folder.name)
    assert set(run["releases"]) == {"brats2023-gli"}


def test_checkpoint_is_nnunets_own_with_entries_of_our_own(prepared: Prepared) -> None:
    trainer = _pretrainer(prepared)
    ours = torch.load(_saved(trainer), weights_only=False)
    nnUNetTrainer.save_checkpoint(trainer, str(checkpoint(trainer, "stock")))
    stock = torch.load(checkpoint(trainer, "stock"), weights_only=False)
    assert set(ours) - set(stock) == {EXPOSURE, "nnssl_adaptation_plan", "citations"} and not set(stock) - set(ours)
    for name in set(stock) - {"network_weights", "optimizer_state", "logging"}:
        assert ours[name] == stock[name], name
    assert all(torch.equal(ours["network_weights"][k], v) for k, v in stock["network_weights"].items())
    assert ours["optimizer_state"].keys() == stock["optimizer_state"].keys()
    assert ours["logging"].keys() == stock["logging"].keys()


def test_training_on_all_cases_has_no_validation_of_its_own(prepared: Prepared) -> None:
    trainer = _pretrainer(prepared, "all")
    trainer.fold = "all"
    (run,) = _exposure(_saved(trainer)).runs
    assert len(run["train"]["case"]) == 6 and run["val"]["case"] == [] and run["fold"] == "all"


def test_manifest_beside_the_preprocessed_data_is_enough(
    prepared: Prepared, pretrained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert _exposure(_saved(_pretrainer(prepared))) == _exposure(pretrained)


def test_without_any_manifest_the_case_ids_are_carried(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    trainer = _pretrainer(prepared)
    trainer.do_split()
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    (run,) = _exposure(_saved(trainer)).runs
    assert len(run["train"]["case"]) > 0 and not any(run["train"]["sha256"])
    assert run["note"]


def test_finetuning_inherits_warns_and_is_recognised(
    prepared: Prepared, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    trainer = _finetuner(prepared, "inherits")
    trainer.initialize()
    trainer.task.load_weights()
    validation = trainer.do_split()[1]
    assert "WARNING: the weights of checkpoint_final.pth have seen" in _log(trainer)
    assert f"{len(validation)} of {len(validation)} validation cases ({validation[0]}" in _log(trainer)
    runs = _exposure(_saved(trainer)).runs
    assert [run["trainer"] for run in runs] == ["nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM"]
    assert runs[1]["weights"]["sha256"] == read_checkpoint(pretrained).sha256
    report = exposure_report(checkpoint(trainer), prepared.labelled, fold=0)
    assert len(report.findings) == 6 and {by for f in report.findings for by in f.by} == {"content", "patient"}


def test_interrupted_finetuning_keeps_what_it_inherited(
    prepared: Prepared, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    first = _finetuner(prepared, "resumed")
    first.initialize()
    first.task.load_weights()
    before = _exposure(_saved(first))
    pretrained.unlink()
    second = _finetuner(prepared, "resumed")
    second.load_checkpoint(str(checkpoint(first)))
    second.save_checkpoint(str(checkpoint(second, "again")))
    assert _exposure(checkpoint(second, "again")) == before
    third = _finetuner(prepared, "resumed")
    third.load_checkpoint(str(checkpoint(first)))
    third.data.keep_split((["a-new-case"], []))
    third.save_checkpoint(str(checkpoint(third, "changed")))
    runs = _exposure(checkpoint(third, "changed")).runs
    assert runs[:2] == before.runs and runs[2]["train"]["case"] == ["a-new-case"]


def test_weights_that_say_nothing(prepared: Prepared, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(pretrained, weights_only=False)
    del content[EXPOSURE]
    torch.save(content, pretrained)
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    trainer = _finetuner(prepared, "silent")
    trainer.initialize()
    trainer.task.load_weights()
    assert "checkpoint_final.pth says nothing about the cases it was trained on, so nobody can tell" in _log(trainer)
    (run,) = _exposure(_saved(trainer)).runs
    assert "says nothing" in run["ancestors"]
    again = _finetuner(prepared, "silent")
    again.load_checkpoint(str(checkpoint(trainer)))
    again.save_checkpoint(str(checkpoint(again)))
    assert _exposure(checkpoint(again)).runs == (run,)


def test_initial_checkpoint_keeps_the_exposure(prepared: Prepared, pretrained: Path, tmp_path: Path) -> None:
    write_initial_checkpoint(
        pretrained, dataset_id=prepared.labelled, plans_name=prepared.plans, out=tmp_path / "full.pth"
    )
    assert _exposure(tmp_path / "full.pth") == _exposure(pretrained)


# ------------------------------------------------------------------------------------------ ways in which weights come


@pytest.fixture
def whole(prepared: Prepared, pretrained: Path, tmp_path: Path) -> Path:
    """What `bdfm weights` makes for -pretrained_weights."""
    path = tmp_path / "whole.pth"
    write_initial_checkpoint(pretrained, dataset_id=prepared.labelled, plans_name=prepared.plans, out=path)
    return path


def test_nnunets_own_flag_keeps_the_exposure(prepared: Prepared, whole: Path) -> None:
    trainer = _finetuner(prepared, "flagged")
    with loading_as_data():
        maybe_load_checkpoint(trainer, False, False, str(whole))
    loaded = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.origin.find(trainer.network, trainer.print_to_log_file)
    trainer.task.load_weights()
    assert "Training from scratch" not in _log(trainer) and "the weights of whole.pth have seen" in _log(trainer)
    runs = _exposure(_saved(trainer)).runs
    assert [run["trainer"] for run in runs] == ["nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM"]
    assert runs[1]["weights"] == {"name": "whole.pth", "sha256": read_checkpoint(whole).sha256}
    assert len(exposure_report(checkpoint(trainer), prepared.labelled).findings) == 6
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.network.state_dict().items())


def test_pretraining_that_goes_on_from_a_checkpoint_keeps_the_exposure(prepared: Prepared, pretrained: Path) -> None:
    content = torch.load(pretrained, weights_only=False)
    content["network_weights"]["encoder.norm.bias"] += 0.01  # otherwise a new training begins with the very same
    torch.save(content, pretrained)
    trainer = _pretrainer(prepared, "flagged_pretraining")
    with loading_as_data():
        maybe_load_checkpoint(trainer, False, False, str(pretrained))
    trainer.origin.find(trainer.network, trainer.print_to_log_file)
    assert len(_exposure(_saved(trainer)).runs) == 2


def test_weights_of_unknown_origin_are_unknown(prepared: Prepared, whole: Path) -> None:
    """Whoever fills the network by other means than nnU-Net's flag."""
    trainer = _finetuner(prepared, "filled")
    trainer.initialize()
    weights = torch.load(whole, weights_only=True)["network_weights"]
    trainer.network.load_state_dict({k: v for k, v in weights.items() if ".seg_layers." not in k}, strict=False)
    trainer.origin.find(trainer.network, trainer.print_to_log_file)
    trainer.task.load_weights()
    assert "origin is unknown, so nobody can tell" in _log(trainer)
    report = exposure_report(_saved(trainer), prepared.labelled)
    assert report.record == "partial" and "origin is unknown" in report.summary()


def test_files_without_a_record_are_unknown_by_either_way(
    prepared: Prepared, whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = torch.load(whole, weights_only=False)
    del content[EXPOSURE]
    torch.save(content, tmp_path / "bare.pth")
    flagged, named = _finetuner(prepared, "bare_flag"), _finetuner(prepared, "bare_named")
    with loading_as_data():
        maybe_load_checkpoint(flagged, False, False, str(tmp_path / "bare.pth"))
    flagged.origin.find(flagged.network, flagged.print_to_log_file)
    flagged.task.load_weights()
    monkeypatch.setenv("BDFM_WEIGHTS", str(tmp_path / "bare.pth"))
    named.initialize()
    named.origin.find(named.network, named.print_to_log_file)
    named.task.load_weights()
    for trainer in (flagged, named):
        report = exposure_report(_saved(trainer), prepared.labelled)
        assert report.record == "partial" and "bare.pth says nothing" in report.summary()


def test_a_run_that_goes_on_from_a_checkpoint_without_a_record(prepared: Prepared) -> None:
    first = _finetuner(prepared, "no_record")
    path = _saved(first)
    content = torch.load(path, weights_only=False)
    del content[EXPOSURE]
    torch.save(content, path)
    again = _finetuner(prepared, "no_record")
    again.load_checkpoint(str(path))
    (run,) = _exposure(_saved(again)).runs
    assert "goes on from says nothing" in run["ancestors"]


def test_weights_that_come_in_twice_are_refused(
    prepared: Prepared, whole: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    trainer = _finetuner(prepared, "twice")
    with loading_as_data():
        maybe_load_checkpoint(trainer, False, False, str(whole))
    with pytest.raises(InputError, match=r"come in twice, whole\.pth by -pretrained_weights"):
        trainer.on_train_start()
    monkeypatch.setenv("BDFM_WEIGHTS", "none")
    trainer.task.load_weights()
    assert "the weights of whole.pth have seen" in _log(trainer)


def test_a_training_from_scratch_has_no_ancestors(prepared: Prepared) -> None:
    trainer = _finetuner(prepared, "scratch")
    trainer.initialize()
    trainer.origin.find(trainer.network, trainer.print_to_log_file)
    trainer.task.load_weights()
    assert "Training from scratch" in _log(trainer)
    (run,) = _exposure(_saved(trainer)).runs
    assert "ancestors" not in run and run["weights"] == {}


def test_fold_all_says_what_is_compared(prepared: Prepared, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(pretrained))
    trainer = _finetuner(prepared, "fold_all")
    trainer.fold = "all"
    trainer.initialize()
    trainer.task.load_weights()
    assert "Fold `all` has no validation cases of its own" in _log(trainer)


def test_checkpoints_of_something_else_do_not_continue_a_run(prepared: Prepared, tmp_path: Path) -> None:
    path = _saved(_finetuner(prepared, "continued"))
    content = torch.load(path, weights_only=False)
    for change in (
        {"init_args": None, "optimizer_state": 5},
        {"network_weights": {"a": torch.ones(1)}},
        {"bdfm_progress": {"iteration": "x"}},
        {"bdfm_progress": 5},
    ):
        torch.save(content | change, tmp_path / "odd.pth")
        with pytest.raises(InputError, match=r"odd\.pth is no checkpoint of this training"):
            _finetuner(prepared, "continued").load_checkpoint(str(tmp_path / "odd.pth"))
