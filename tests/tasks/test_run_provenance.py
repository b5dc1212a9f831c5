"""What a training tells of where its result comes from, over all of its sessions."""

import getpass
import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.plans import add_variant
from bdfm_nnunet.results import Provenance, read_result
from bdfm_nnunet.tasks import run_provenance
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.training.going_on import continued, killed, stopped_and_continued
from tests.training.trainings import checkpoint, make_trainer, pretrained_encoder


def _make(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, settings)


def _summary(trainer: Any) -> Path:
    return Path(trainer.output_folder) / trainer.task.summary_file


def _provenance(trainer: Any) -> Provenance:
    found = read_result(_summary(trainer)).provenance
    assert found is not None
    return found


def _by_role(provenance: Provenance) -> dict[str, Any]:
    return {each.role: each for each in provenance.inputs}


def test_a_training_names_what_it_has_read_and_written(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = pretrained_encoder(prepared, tmp_path / "pretrained.pth")
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer = _make(prepared, "named", **{"training.seed": 5, "training.epochs": 1})
    trainer.run_training()
    found, folder = _provenance(trainer), Path(trainer.output_folder)
    read = _by_role(found)
    preprocessed = f"$nnUNet_preprocessed/{trainer.plans_manager.dataset_name}"
    assert {role: each.place for role, each in read.items()} == {
        "plans": "../plans.json",
        "dataset.json": "../dataset.json",
        "split": f"{preprocessed}/splits_final.json",
        "cases and their origin": f"{preprocessed}/manifest.json",
        "preprocessed data": f"{preprocessed}/{Path(trainer.preprocessed_dataset_folder).name}",
        "weights": read["weights"].place,
    }
    assert read["weights"].sha256 == sha256_of(weights) and read["preprocessed data"].kind == "data"
    written = {each.place: each.sha256 for each in found.outputs}
    assert written == {name: sha256_of(folder / name) for name in ("checkpoint_final.pth", "checkpoint_best.pth")}
    assert found.seeds == {"training": 5} and len(found.sessions) == 1
    assert found.sessions[0]["versions"]["torch"] == version("torch") and found.sessions[0]["device"] == "cpu"
    assert found.licences["pretrained.pth"] is None and found.licences["brats2023-gli"]
    assert any("nnU-Net" in text for text in found.citations)
    told = _summary(trainer).read_text() + _summary(trainer).with_suffix(".md").read_text()
    assert str(prepared.root) not in told and str(Path.home()) not in told
    assert f"/{getpass.getuser()}/" not in told

    assert cli.main(["verify", str(folder.parent)]) == 0  # the trained model's folder
    add_variant(prepared.labelled, plans_name=prepared.plans, variant="later", settings={"training.epochs": 9})
    assert cli.main(["verify", str(folder)]) == 0 and "0 changed, 0 missing" in capsys.readouterr().out
    content = checkpoint(trainer).read_bytes()
    checkpoint(trainer).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    report = tmp_path / "report.json"
    assert cli.main(["verify", str(_summary(trainer)), "--quick"]) == 0
    assert cli.main(["verify", str(_summary(trainer)), "-o", str(report)]) == 3
    assert "CHANGED: checkpoint_final.pth" in capsys.readouterr().out
    assert json.loads(report.read_text())[0]["faults"]["changed"] == ["checkpoint_final.pth"]
    checkpoint(trainer).unlink()
    assert cli.main(["verify", str(folder)]) == 4 and "MISSING: checkpoint_final.pth" in capsys.readouterr().out


def test_sessions_of_a_killed_training_are_added_up(prepared: Prepared) -> None:
    make = partial(_make, prepared, "summed")
    versions = run_provenance.versions_of
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(run_provenance, "versions_of", lambda *names: versions(*names) | {"torch": "1.0"})
        (first,) = _provenance(killed(make, step=5)).sessions  # as of the end of its first epoch
    found = _provenance(continued(make, done=3))
    assert len(found.sessions) == 2 and found.sessions[0] == first
    assert [each["versions"]["torch"] for each in found.sessions] == ["1.0", version("torch")]
    assert "- torch: 1.0, then " in (make().task.folder / "training_summary.md").read_text()


def test_a_training_stopped_in_its_first_epoch_keeps_its_hours(prepared: Prepared) -> None:
    trainer = stopped_and_continued(partial(_make, prepared, "early"), step=2)
    result = read_result(_summary(trainer))
    assert len(_provenance(trainer).sessions) == 2 and result.cost is not None and result.cost.epochs == 2
    assert result.curves is not None and len(result.curves["lrs"]) == 2


def test_a_new_training_does_not_count_the_hours_of_another(prepared: Prepared) -> None:
    for _ in range(2):
        trainer = _make(prepared, "anew", **{"training.epochs": 1, "training.iterations_per_epoch": 1})
        trainer.run_training()
    assert len(_provenance(trainer).sessions) == 1


def test_earlier_hours_are_unknown_where_their_record_is_lost(prepared: Prepared) -> None:
    make = partial(_make, prepared, "lost")
    _summary(killed(make, step=5)).write_text("{")
    trainer = continued(make, done=3)
    assert [each["hours"] is None for each in _provenance(trainer).sessions] == [True, False]
    assert "- hours: at least " in _summary(trainer).with_suffix(".md").read_text()
    assert "earlier sessions of this training are unknown" in Path(trainer.log_file).read_text()


def test_a_file_that_cannot_be_hashed_is_a_warning(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **how: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(run_provenance, "hashed_data", broken)
    settings = {"training.epochs": 1, "training.iterations_per_epoch": 1}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "broken", settings)
    trainer.run_training()
    found = _provenance(trainer)
    assert "preprocessed data" not in _by_role(found) and "plans" in _by_role(found)
    assert "WARNING: a file has no hash in the run's record: the disk is gone" in Path(trainer.log_file).read_text()
    assert any("SimMIM" in text for text in found.citations)
