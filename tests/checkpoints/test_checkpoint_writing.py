from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.errors import InputError
from tests.limits import largest_file


def _save(path: Path, value: float, **settings: str) -> None:
    write_checkpoint({"a": torch.full((5000,), value)}, path, **settings)


def test_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pth"
    _save(path, 1)
    for settings, sentence in (
        ({}, "free some space there and run the command again"),
        ({"again": "continue with --c"}, r"\): free some space there and continue with --c"),
    ):
        with largest_file(10_000), pytest.raises(InputError, match=rf"cannot write .*a\.pth.*{sentence}") as caught:
            _save(path, 2, **settings)
        assert "\n" not in str(caught.value)
        assert torch.load(path, weights_only=True)["a"][0] == 1
        assert list(path.parent.iterdir()) == [path]
    _save(path, 2)
    assert torch.load(path, weights_only=True)["a"][0] == 2


def test_the_checkpoint_before_keeps_its_name(tmp_path: Path) -> None:
    path, previous = tmp_path / "a.pth", tmp_path / "b.pth"
    for value in (1, 2, 3):
        write_checkpoint({"a": value}, path, previous=previous)
    assert [torch.load(each, weights_only=True)["a"] for each in (path, previous)] == [3, 2]
    with largest_file(1), pytest.raises(InputError):
        write_checkpoint({"a": 4}, path, previous=previous)
    assert [torch.load(each, weights_only=True)["a"] for each in (path, previous)] == [3, 2]
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_checkpoint({"a": _Odd()}, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


class _Odd:
    def __reduce__(self) -> str:
        raise KeyError
