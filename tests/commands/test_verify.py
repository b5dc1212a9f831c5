"""`bdfm verify` on what a training, a prediction and an evaluation leave, one after the other."""

import multiprocessing
import shutil
import sys
from pathlib import Path

import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.results import read_result
from bdfm_nnunet.trainers import nnUNetTrainerBDFM
from tests.conftest import Prepared, leave_out_figures
from tests.training.trainings import make_trainer


def test_from_training_to_scores_every_file_is_found_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_out_figures(monkeypatch)
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)  # nnU-Net's command sets as many threads
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    short = {"training.epochs": 1, "training.iterations_per_epoch": 1, "training.val_iterations_per_epoch": 1}
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "verified", short)
    trainer.run_training()
    model = Path(trainer.output_folder).parent

    raw, scans = prepared.folder("nnUNet_raw", prepared.labelled), tmp_path / "scans"
    case = trainer.do_split()[1][0]
    for folder in ("images", "labels"):
        (scans / folder).mkdir(parents=True)
    for path in (raw / "imagesTr").glob(f"{case}_*"):
        shutil.copy(path, scans / "images")
    shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", scans / "labels")
    out, scores = tmp_path / "predictions", tmp_path / "scores" / "scores.json"
    options = ["-f", "0", "-device", "cpu", "--disable_tta", "-npp", "0", "-nps", "0", "-step_size", "1"]
    assert main(["predict", "-m", str(model), "-i", str(scans / "images"), "-o", str(out), *options]) == 0
    assert main(["evaluate", str(scans / "labels"), str(out), "-d", str(prepared.labelled), "-o", str(scores)]) == 0

    capsys.readouterr()
    for run in (model, out, scores.parent):
        assert main(["verify", str(run)]) == 0, capsys.readouterr().out
    result = read_result(scores)
    assert result.exposure is not None and result.exposure["runs"][-1]["trainer"] == "nnUNetTrainerBDFM"
    assert result.provenance is not None and result.provenance.licences["brats2023-gli"]
    with (out / f"{case}.nii.gz").open("ab") as stream:
        stream.write(b"\0")
    assert [main(["verify", str(run)]) for run in (model, out, scores.parent)] == [0, 3, 3]
    assert f"CHANGED: ../predictions/{case}.nii.gz" in capsys.readouterr().out
    shutil.rmtree(out)
    assert main(["verify", str(scores)]) == 4


def test_a_folder_without_results_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no result file that names what it came from" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none.json")]) == 2 and "does not exist" in capsys.readouterr().err
