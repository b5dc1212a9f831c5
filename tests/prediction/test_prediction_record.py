"""The run sheet of a folder of predictions."""

import gc
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.files import sha256_of, write_json
from bdfm_nnunet.prediction import prediction_record
from bdfm_nnunet.prediction.prediction_record import PredictionRun, recorded
from bdfm_nnunet.results import RunResult, read_result
from bdfm_nnunet.results.verification import verify_result

RELEASES = {"ixi": {"licence": "CC BY-SA 3.0", "overlaps": [], "citation": "brain-development.org"}}


@pytest.fixture
def run(tmp_path: Path) -> PredictionRun:
    """A model of two folds, and images of three cases."""
    (tmp_path / "images").mkdir()
    for case in ("a", "b", "c"):
        for channel in range(2):
            (tmp_path / f"images/{case}_{channel:04d}.nii.gz").write_text(f"{case}{channel}")
    model = tmp_path / "models/nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold in range(2):
        (model / f"fold_{fold}").mkdir(parents=True)
        run = {"dataset": "Dataset501_A", "fold": str(fold), "releases": RELEASES}
        content = {"network_weights": {"weight": torch.full((2,), 1.0 + fold)}, "trainer_name": "nnUNetTrainer",
                   "bdfm_exposure": {"format": 1, "runs": [run]}}  # fmt: skip
        torch.save(content, model / f"fold_{fold}" / "checkpoint_final.pth")
    write_json(model / "dataset.json", {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1},
                                        "numTraining": 1, "file_ending": ".nii.gz"})  # fmt: skip
    return _run(tmp_path)


def _run(root: Path, **changes: Any) -> PredictionRun:
    settings = {"folds": ["0", "1"], "checkpoint": None, "mirroring": True}
    model = root / "models/nnUNetTrainer__nnUNetPlans__3d_fullres"
    about: dict[str, Any] = {"images": root / "images", "out": root / "out", "models": [], "named": {"m": str(model)},
                             "device": "cpu", "files": {}, "settings": settings}  # fmt: skip
    return PredictionRun(**(about | changes))


def _predict(run: PredictionRun, *cases: str, then: Callable[[], None] = lambda: None) -> RunResult:
    with recorded(run):
        run.out.mkdir(exist_ok=True)
        for case in cases:
            (run.out / f"{case}.nii.gz").write_text(f"segmentation of {case}")
        then()
    return read_result(run.out / "prediction_summary.json", kind="prediction")


def test_images_models_and_results_are_named(run: PredictionRun) -> None:
    run.out.mkdir()
    (run.out / "foreign.nii.gz").write_text("from elsewhere")
    result = _predict(run, "a", "b")
    found = result.provenance
    assert found is not None and result.settings is not None and result.exposure is not None
    models, images = found.inputs[:2], found.inputs[2]
    folder = "../models/nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert [each.place for each in models] == [f"{folder}/fold_{fold}/checkpoint_final.pth" for fold in range(2)]
    assert [each.sha256 for each in models] == [sha256_of(path) for path in run.checkpoints]
    assert images.files is not None and list(images.files) == [f"{c}_000{n}.nii.gz" for c in "ab" for n in "01"]
    assert found.outputs[0].files is not None and list(found.outputs[0].files) == ["a.nii.gz", "b.nii.gz"]
    assert result.settings["models"] == [folder] and result.settings["images"] == "../images"
    assert len(result.exposure["runs"]) == 2 and found.licences["ixi"] == "CC BY-SA 3.0"
    assert "brain-development.org" in found.citations
    assert len(found.sessions) == 1 and "brain-development.org" in (run.out / "prediction_summary.md").read_text()
    assert verify_result(run.out / "prediction_summary.json").answer == "unchanged"
    (run.out / "a.nii.gz").write_text("postprocessed")
    assert verify_result(run.out / "prediction_summary.json").faults.changed == ("./a.nii.gz",)


def test_a_prediction_that_goes_on_is_added(run: PredictionRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        _predict(run, "a", then=stop)
    found = _predict(run, "b").provenance
    assert found is not None and len(found.sessions) == 2
    assert found.outputs[0].count == 2 and found.inputs[2].count == 4


@pytest.mark.parametrize("other", [{"folds": ["0"]}, {"mirroring": False}])
def test_another_model_or_setting_begins_a_new_sheet(run: PredictionRun, tmp_path: Path, other: Any) -> None:
    _predict(run, "a")
    found = _predict(_run(tmp_path, settings={**run.settings, **other}), "b").provenance
    assert found is not None and len(found.sessions) == 1 and found.outputs[0].count == 1


def test_retrained_weights_begin_a_new_sheet(run: PredictionRun) -> None:
    _predict(run, "a")
    content = torch.load(run.checkpoints[0], weights_only=True)
    torch.save(content | {"network_weights": {"weight": torch.zeros(2)}}, run.checkpoints[0])
    found = _predict(run, "b").provenance
    assert found is not None and found.outputs[0].count == 1


def test_the_weights_of_one_fold_are_in_memory_at_a_time(run: PredictionRun, monkeypatch: pytest.MonkeyPatch) -> None:
    read, alive = prediction_record.read_checkpoint, []

    def watched(path: Path) -> Any:
        gc.collect()
        assert not [tensor for tensor in alive if tensor() is not None], "the weights before are still there"
        found = read(path)
        alive.extend(weakref.ref(tensor) for tensor in found.weights.values())
        return found

    monkeypatch.setattr(prediction_record, "read_checkpoint", watched)
    _predict(run, "a")
    assert len(alive) == 2


def test_nothing_written_is_nothing_recorded(run: PredictionRun) -> None:
    with recorded(run):
        pass
    assert not run.out.exists()


def test_a_sheet_that_cannot_be_written_is_a_warning(
    run: PredictionRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, result: RunResult) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(prediction_record, "write_result", full)
    with caplog.at_level(logging.WARNING), recorded(run):
        run.out.mkdir()
        (run.out / "a.nii.gz").write_text("a")
    assert "the predictions are whole, but prediction_summary.json is not" in caplog.text


def test_parts_that_run_at_the_same_time_share_a_sheet(run: PredictionRun, tmp_path: Path) -> None:
    first, second = (_run(tmp_path, parts=2) for _ in range(2))
    with recorded(first):
        _predict(second, "a")
        (run.out / "b.nii.gz").write_text("b")
    found = read_result(run.out / "prediction_summary.json").provenance
    assert found is not None and len(found.sessions) == 2 and found.outputs[0].count == 2
    assert not [name for name in os.listdir(run.out) if name.endswith(".lock")]
