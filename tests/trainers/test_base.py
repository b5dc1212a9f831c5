"""What both trainers share and neither changes."""

import json
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.trainers.running import make_trainer


@pytest.fixture
def trainer(prepared: Prepared) -> Any:
    return make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "folds", {})


def test_folds_of_the_split_file(trainer: Any, prepared: Prepared) -> None:
    path = prepared.folder("nnUNet_preprocessed", prepared.unlabelled) / "splits_final.json"
    splits = json.loads(path.read_text())
    trainer.fold = len(splits) - 1
    assert trainer.do_split() == (splits[-1]["train"], splits[-1]["val"])
    trainer.fold = "all"
    training, validation = trainer.do_split()
    assert len(training) == len(validation) == len(splits[0]["train"]) + len(splits[0]["val"])


def test_fold_beyond_the_split_file_is_refused(trainer: Any) -> None:
    """nnU-Net would split at random, with the visits of one patient on both sides."""
    trainer.fold = 5
    with pytest.raises(InputError, match=r"splits_final\.json has 5 folds, so there is no fold 5: .*0 to 4"):
        trainer.run_training()
    trainer.fold = 77
    with pytest.raises(InputError, match="no fold 77"):
        trainer.do_split()


def test_without_a_split_file_nnunet_makes_its_own(trainer: Any, tmp_path: Any) -> None:
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    training, validation = trainer.do_split()
    assert training and validation and (tmp_path / "splits_final.json").is_file()


@pytest.mark.parametrize(("asked", "threads"), [("2", 2), ("many", 1), ("0", 1)])
def test_threads_asked_for_on_the_cpu(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, asked: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "threads", {})
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
