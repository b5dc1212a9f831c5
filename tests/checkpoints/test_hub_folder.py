import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError

WEIGHTS = {"encoder.a": torch.arange(2.0), "b": torch.zeros(3)}


def test_a_folder_with_safetensors_and_what_lies_beside(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    config = {"trainer_name": "nnUNetTrainerSimMIM", "license": "CC BY 4.0", "citations": ["@a"], "path": "/etc/x"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        checkpoint = read_checkpoint(path)
        assert torch.equal(checkpoint.weights["encoder.a"], WEIGHTS["encoder.a"])
        assert (checkpoint.trainer, checkpoint.licence) == ("nnUNetTrainerSimMIM", "CC BY 4.0")
        assert checkpoint.citations == ("@a",) and checkpoint.path.name == "model.safetensors"


def test_what_a_checkpoint_says_itself_is_believed_first(tmp_path: Path) -> None:
    torch.save({"network_weights": WEIGHTS, "trainer_name": "A"}, tmp_path / "checkpoint_final.pth")
    (tmp_path / "config.json").write_text('{"trainer_name": "B", "citations": ["x"]}')
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.trainer == "A" and checkpoint.citations == ("x",)


def test_what_lies_beside_other_names_is_not_looked_at(tmp_path: Path) -> None:
    torch.save({"network_weights": WEIGHTS}, tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text("nonsense")
    assert read_checkpoint(tmp_path / "mine.pth").trainer is None


@pytest.mark.parametrize("content", ["nonsense", "[1]", "{}"])
def test_odd_files_beside(tmp_path: Path, content: str) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    if content == "nonsense":
        with pytest.raises(InputError, match=r"config\.json"):
            read_checkpoint(tmp_path)
    else:
        assert set(read_checkpoint(tmp_path).weights) == set(WEIGHTS)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder without weights: expected model\.safetensors, "):
        read_checkpoint(tmp_path)


def test_a_checkpoint_called_tar(tmp_path: Path) -> None:
    torch.save({"model_state_dict": WEIGHTS}, tmp_path / "release.tar")
    assert set(read_checkpoint(tmp_path / "release.tar").weights) == set(WEIGHTS)
