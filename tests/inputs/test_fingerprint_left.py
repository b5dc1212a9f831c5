"""A training leaves the fingerprint of its images in the model's folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.inputs.input_faults import CONTRAST, find_faults
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT, InputFingerprint
from bdfm_nnunet.training.fold_data import FoldData
from tests.inputs.heads import head, save


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for number in range(6):
        save(tmp_path / "nnUNet_raw" / "Dataset007_Heads" / "imagesTr", f"case_{number}", list(head(number).values()))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    told: list[str] = []
    return SimpleNamespace(
        preprocessed_dataset_folder_base=str(tmp_path / "preprocessed"), output_folder_base=str(tmp_path / "model"),
        plans_manager=SimpleNamespace(dataset_name="Dataset007_Heads"), print_to_log_file=told.append, told=told,
        configuration_manager=SimpleNamespace(patch_size=[16, 16, 16]),
        dataset_json={"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz", "labels": {"background": 0}},
    )  # fmt: skip


def test_data_that_nnunet_has_preprocessed(trainer: Any, tmp_path: Path) -> None:
    FoldData(trainer).leave_input_fingerprint()
    paths = [tmp_path / folder / INPUT_FINGERPRINT for folder in ("preprocessed", "model")]
    ours, models = map(InputFingerprint.read, paths)
    assert ours.channels == models.channels == ("T1", "T2") and ours.cases == models.cases == 6
    assert ours.limits == models.limits and paths[0].stat().st_size < 30_000


def test_a_damaged_fingerprint_does_not_end_a_training(trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "preprocessed" / INPUT_FINGERPRINT).write_text("{}")
    FoldData(trainer).leave_input_fingerprint()
    assert "will not know wrong images" in trainer.told[0] and not (tmp_path / "model").exists()


def test_runs_and_other_formats_have_none(trainer: Any, tmp_path: Path) -> None:
    trainer.dataset_json["file_ending"] = ".png"
    FoldData(trainer).leave_input_fingerprint()
    trainer.dataset_json["file_ending"], trainer.configuration_manager.patch_size = ".nii.gz", [16, 16, 16, 8]
    FoldData(trainer).leave_input_fingerprint()
    assert not (tmp_path / "model").exists() and not trainer.told


def test_cases_without_a_channel_are_held_against_the_others(trainer: Any, tmp_path: Path) -> None:
    FoldData(trainer).leave_input_fingerprint()
    known = InputFingerprint.read(tmp_path / "model" / INPUT_FINGERPRINT)
    alone, t1 = known.of_channels([1]), tmp_path / "nnUNet_raw" / "Dataset007_Heads" / "imagesTr" / "case_0_0000.nii.gz"
    t2 = t1.with_name("case_0_0001.nii.gz")
    assert alone.channels == ("T2",) and known.of_channels([0, 1]) is known
    assert not find_faults(alone, [read_volume(t2, t2.name)])
    (fault,) = find_faults(alone, [read_volume(t1, t1.name)])
    assert fault.kind == CONTRAST and "does not look like T2" in fault.sentence
