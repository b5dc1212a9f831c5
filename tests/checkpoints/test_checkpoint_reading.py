from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of

WEIGHTS = {"encoder.a": torch.ones(2), "b": torch.zeros(3)}


def _saved(tmp_path: Path, content: object, name: str = "a.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("key", ["network_weights", "state_dict", "model_state_dict", "model", "teacher", "student"])
def test_containers_are_opened(tmp_path: Path, key: str) -> None:
    checkpoint = read_checkpoint(_saved(tmp_path, {"epoch": 3, key: WEIGHTS}))
    assert set(checkpoint.weights) == set(WEIGHTS)
    assert checkpoint.kind == ("nnunet" if key == "network_weights" else "weights")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path: Path, prefix: str) -> None:
    checkpoint = read_checkpoint(_saved(tmp_path, {prefix + name: value for name, value in WEIGHTS.items()}))
    assert set(checkpoint.weights) == set(WEIGHTS)


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors").weights["b"], WEIGHTS["b"])


def test_nnunet_checkpoint_tells_its_origin(tmp_path: Path) -> None:
    """nnU-Net logs NumPy numbers and keeps its arguments; none of that needs pickle's freedom."""
    arguments = {"plans": {"plans_name": "X"}, "configuration": "3d_fullres", "device": torch.device("cpu")}
    logging = {"train_losses": [np.float64(1.5), np.float32(2)], "dice": [np.zeros(2, np.float32)], "n": np.int64(3)}
    content = {"network_weights": WEIGHTS, "init_args": arguments, "trainer_name": "T", "logging": logging}
    path = _saved(tmp_path, content)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.plans, checkpoint.configuration, checkpoint.trainer) == ({"plans_name": "X"}, "3d_fullres", "T")
    assert checkpoint.sha256 == sha256_of(path)


def test_entries_of_an_odd_kind_count_as_missing(tmp_path: Path) -> None:
    for odd in (5, [1], "os.system; x"):
        arguments = {"plans": [odd], "configuration": [odd]}
        content = {"network_weights": WEIGHTS, "init_args": arguments, "trainer_name": [odd]}
        checkpoint = read_checkpoint(_saved(tmp_path, content))
        assert (checkpoint.plans, checkpoint.configuration, checkpoint.trainer) == (None, None, None)
        content |= {"init_args": odd, "trainer_name": "os.system"}
        assert read_checkpoint(_saved(tmp_path, content)).trainer is None


def test_weights_that_are_none(tmp_path: Path) -> None:
    for weights in (
        {"a": torch.tensor([1.0, float("nan")])},
        {"a": torch.ones(2, dtype=torch.int8)},
        {5: torch.ones(2)},
        {"a": torch.zeros(1).as_strided((10**9, 10**9), (0, 0))},
    ):
        for content in (weights, {"network_weights": weights}, {"state_dict": {"model": weights}}):
            path = _saved(tmp_path, content)
            with pytest.raises(InputError) as caught:
                read_checkpoint(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
