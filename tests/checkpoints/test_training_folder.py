"""Which checkpoint a training's folder stands for."""

from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints.checkpoint_reading import read_checkpoint
from bdfm_nnunet.checkpoints.training_folder import checkpoint_of_training
from bdfm_nnunet.errors import InputError

TRAINING = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def _checkpoint(folder: Path, name: str = "checkpoint_final.pth", value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"network_weights": {"encoder.weight": torch.full((2, 2), value)}, "trainer_name": "nnUNetTrainer"}
    torch.save(content, folder / name)
    return folder / name


def test_every_folder_of_a_training_leads_to_its_weights(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset004_Hippocampus"
    first = _checkpoint(dataset / TRAINING / "fold_0")
    for folder in (dataset, dataset / TRAINING, first.parent):
        assert read_checkpoint(folder).path == first.resolve()
    assert read_checkpoint(dataset / TRAINING).notes == (f"the weights are those of fold_0 of {TRAINING}",)
    _checkpoint(dataset / TRAINING / "fold_10", value=3.0)
    second = _checkpoint(dataset / TRAINING / "fold_2", value=2.0)
    assert checkpoint_of_training(dataset / TRAINING)[0] == first
    first.unlink()
    _checkpoint(first.parent, "checkpoint_latest.pth")
    found, (told,) = checkpoint_of_training(dataset / TRAINING)
    assert found == second and "fold_2, of 2 finished folds" in told
    everything = _checkpoint(dataset / TRAINING / "fold_all")
    assert checkpoint_of_training(dataset / TRAINING)[0] == everything


def test_unfinished_and_several_trainings_are_one_sentence(tmp_path: Path) -> None:
    latest = _checkpoint(tmp_path / TRAINING / "fold_0", "checkpoint_latest.pth")
    for folder in (tmp_path / TRAINING, latest.parent):
        with pytest.raises(InputError, match=r"has no checkpoint_final\.pth.*or name a file such as .*latest\.pth"):
            read_checkpoint(folder)
    _checkpoint(tmp_path / "nnUNetTrainer__BDFMPlans__3d_fullres/fold_0")
    with pytest.raises(InputError, match="holds 2 trainings: name one, such as"):
        read_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without weights"):
        read_checkpoint(tmp_path / "empty")
