import pickle
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


class _Danger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/never"),)  # type: ignore[return-value]


def test_code_in_a_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("the file's code was run")

    path = _saved(tmp_path, {"state_dict": WEIGHTS, "callback": _Danger()})
    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(InputError, match="tensors only"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "line.pth").write_text("text\n")  # the unpickler takes letters for instructions
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense that is long enough")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps([1, 2]))
    whole = _saved(tmp_path, WEIGHTS, "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    names = ["text.pth", "line.pth", "empty.pth", "x.safetensors", "pickle.pth", "cut.pth"]
    names.append(_saved(tmp_path, [1, 2], "list.pth").name)
    names.append(_saved(tmp_path, {"epoch": 1}, "no_tensors.pth").name)
    for path in [tmp_path / name for name in names] + [tmp_path / "missing.pth", tmp_path]:
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), path


def test_any_bytes_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    path = tmp_path / "any.pth"
    torch.save({"state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    refused = 0
    for number in range(300):
        content = bytearray(random.integers(0, 256, 40, dtype=np.uint8)) if number % 2 else bytearray(whole)
        content[random.integers(len(content))] = random.integers(32, 127)
        path.write_bytes(content)
        try:
            read_checkpoint(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 150
