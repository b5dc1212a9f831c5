import os
from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.last_training import SUMMARY
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from tests.networks.zoo import network


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def _training(results: Path, trainer: str, *, when: int, seed: int, summary: str = SUMMARY, fold: str = "all") -> Path:
    folder = results / "Dataset900_X" / f"{trainer}__BDFMPlans__3d_fullres" / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    content = {"network_weights": network("resenc", 1).state_dict(), "trainer_name": trainer}
    torch.save(content, folder / "checkpoint_final.pth")
    (folder / summary).write_text("{}")
    os.utime(folder / "checkpoint_final.pth", (when, when))
    return folder / "checkpoint_final.pth"


def test_the_newest_finished_pretraining_is_taken_and_told(results: Path) -> None:
    _training(results, "nnUNetTrainerSimMIM", when=10, seed=1)
    newest = _training(results, "nnUNetTrainerSimCLR", when=20, seed=2, fold="0")
    _training(results, "nnUNetTrainerBDFM", when=30, seed=3, summary="summary.json")  # a segmentation
    (_training(results, "nnUNetTrainerFrepa", when=40, seed=4)).unlink()  # not finished
    checkpoint = read_checkpoint("last:900")
    assert checkpoint.path == newest.resolve()
    place = newest.relative_to(results)
    assert checkpoint.notes == (f"last:900 is {place}, the newest of 2 finished pre-trainings",)
    target = network("resenc", 1)
    report = load_pretrained(target, "last:900")
    torch.manual_seed(2)
    image, source = torch.randn(1, 1, 16, 16, 16), network("resenc", 1)
    source.load_state_dict(torch.load(newest)["network_weights"])
    for ours, theirs in zip(target.encoder(image), source.encoder(image), strict=True):
        assert torch.equal(ours, theirs)
    assert "last:900 is" in str(report)
    assert "nothing about the cases" in Exposure.of_checkpoint(checkpoint).note


def test_a_single_one_is_no_choice(results: Path) -> None:
    path = _training(results, "nnUNetTrainerSimMIM", when=10, seed=1)
    assert read_checkpoint(Path("last:900")).notes == (f"last:900 is {path.relative_to(results)}",)


@pytest.mark.parametrize("name", ["last:901", "last:9"])
def test_none(results: Path, name: str) -> None:
    _training(results, "nnUNetTrainerSimMIM", when=10, seed=1)
    with pytest.raises(InputError, match=rf"{name} names nothing: no finished pre-training .*bdfm train"):
        read_checkpoint(name)


def test_without_a_folder_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        read_checkpoint("last:900")


@pytest.mark.parametrize("name", ["last:", "last:x", "last:../900", "last:900/x"])
def test_other_names_are_paths(results: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"last:.* does not exist|last:.*cannot be read|No such file"):
        read_checkpoint(name)
