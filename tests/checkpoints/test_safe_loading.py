import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.errors import InputError

WEIGHTS = {"encoder.a": torch.ones(2), "b": torch.zeros(3)}


def _saved(tmp_path: Path, content: object, name: str = "a.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


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
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    names += ["loop.pth", "pipe.pth", "missing.pth", "."]
    for path in [tmp_path / name for name in names]:
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


def _renamed(path: Path, old: bytes, new: bytes) -> None:
    """Changes names in the pickle of an archive, as another version of a library would have written them."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                assert old in content or new in content
                content = content.replace(old, new)
            archive.writestr(name, content)


@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_logs_of_numpy_1_and_2(tmp_path: Path, core: bytes) -> None:
    logging = {"train_losses": [np.float64(1.5), np.float32(2)], "dice": [np.arange(3)], "word": np.str_("x")}
    path = _saved(tmp_path, {"network_weights": WEIGHTS, "logging": logging})
    _renamed(path, b"numpy._core.", b"numpy.core.")
    _renamed(path, b"numpy.core.", core)
    read = load_as_data(path)["logging"]
    assert read["train_losses"] == [1.5, 2] and type(read["train_losses"][1]) is np.float32
    assert read["dice"][0].tolist() == [0, 1, 2] and read["word"] == "x"
    torch.save(read, tmp_path / "again.pth")  # as nnU-Net does after it continued: ordinary arrays again
    assert b"bdfm_nnunet" not in (tmp_path / "again.pth").read_bytes()


def test_arguments_of_a_command_are_data(tmp_path: Path) -> None:
    arguments = argparse.Namespace(lr=0.1, layers=[1, 2], scale=np.float64(2))
    path = _saved(tmp_path, {"state_dict": WEIGHTS, "args": arguments, "hyper_parameters": {"inner": arguments}})
    assert load_as_data(path)["args"] == {"lr": 0.1, "layers": [1, 2], "scale": 2}
    assert set(read_checkpoint(path).weights) == set(WEIGHTS)


def test_arguments_cannot_hide_objects(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"state_dict": WEIGHTS, "args": argparse.Namespace(callback=_Danger())})
    with pytest.raises(InputError, match="tensors only"):
        read_checkpoint(path)


def test_a_whole_module_is_refused_by_its_name(tmp_path: Path) -> None:
    path = _saved(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"the Python object torch\.nn\.modules\.linear\.Linear, .* its state_dict"):
        read_checkpoint(path)


def test_old_format_of_pytorch_and_files_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": OrderedDict(WEIGHTS)}, path, _use_new_zipfile_serialization=False)
    assert set(read_checkpoint(path).weights) == set(WEIGHTS)
    torch.serialization.set_crc32_options(False)
    try:
        _saved(tmp_path, WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    assert set(read_checkpoint(path).weights) == set(WEIGHTS)


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"network_weights": {"a": torch.randn(1000)}})
    whole = path.read_bytes()
    record = next(r for r in zipfile.ZipFile(path).infolist() if r.filename.endswith("data/0"))
    start = whole.index(torch.load(path)["network_weights"]["a"].numpy().tobytes(), record.header_offset)
    for place in range(start, start + 4000, 131):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="checksum of its part"):
            read_checkpoint(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_tensor_cannot_grow_beyond_its_file(tmp_path: Path, old_format: bool) -> None:
    """PyTorch fills what the file does not hold with whatever lies in the memory."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(200)}, path, _use_new_zipfile_serialization=not old_format)
    size = b"K\xc8"  # 200 as the pickle has it: once the storage's size, then the tensor's
    if old_format:
        content = path.read_bytes()
        place = content.rindex(size, 0, content.index(b"requires_grad") if b"requires_grad" in content else None)
        path.write_bytes(content[:place] + b"M\xff\xff" + content[place + 2 :])
    else:
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("a/data.pkl")
        place = pickled.rindex(size)
        _renamed(path, pickled, pickled[:place] + b"M\xff\xff" + pickled[place + 2 :])
    with pytest.raises(InputError):
        read_checkpoint(path)


def test_programs_and_what_unpacks_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pth"))
    with pytest.raises(InputError, match="TorchScript program"):
        read_checkpoint(tmp_path / "a.pth")
    path = _saved(tmp_path, WEIGHTS)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb", bytes(10_000_000))
    monkeypatch.setattr("bdfm_nnunet.checkpoints.safe_loading.memory_bytes", lambda: 1_000_000)
    with pytest.raises(InputError, match="unpacks to"):
        read_checkpoint(path)
