"""Splits that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.split_files import read_splits


def test_train_and_val_are_read_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"], "made_by": 3}]))
    assert read_splits(path) == [{"train": ["a"], "val": ["b"]}]


@pytest.mark.parametrize(
    "content",
    [[], {}, 5, None, "x", [1], [{"train": ["a"]}], [{"train": "ab", "val": []}], [{"train": [1], "val": ["b"]}],
     [{"train": ["../../a"], "val": ["b"]}], [{"train": ["/etc/passwd"], "val": []}], [{"train": [["a"]], "val": []}]],
)  # fmt: skip
def test_anything_else_is_a_sentence(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"splits_final\.json"):
        read_splits(path)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'[{"a": ' + b"9" * 5000 + b"}]", b"\xff\xfe{}"])
def test_what_is_no_json_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").write_bytes(content)
    with pytest.raises(InputError, match=r"splits_final\.json"):
        read_splits(tmp_path / "splits_final.json")


def test_a_folder_in_its_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_splits(tmp_path / "splits_final.json")
