"""Splits that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.split_files import SPLITS_TABLE, KeptOut, read_kept_out, read_splits


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


KEPT_OUT = KeptOut({"site=Ulm": frozenset("ab"), "site=Köln": frozenset("c"), "scanner=ulm": frozenset("bd")})


@pytest.mark.parametrize(
    ("wanted", "cases"),
    [([], "abcd"), (["KÖLN"], "c"), (["ulm"], "abd"), (["site=Ulm"], "ab"), (["Köln", "scanner=ULM"], "bcd")],
)
def test_cases_of_kept_out_sites_are_found_by_site_or_all(wanted: list[str], cases: str) -> None:
    assert KEPT_OUT.of_sites(wanted) == list(cases)


@pytest.mark.parametrize(
    ("kept_out", "wanted", "why"),
    [
        (KEPT_OUT, ["Bonn"], "--external Bonn was not kept out: name one of scanner=ulm, site=Köln, site=Ulm"),
        (KEPT_OUT, ["Ulm", ""], "--external  was not kept out"),
        (KeptOut(), [], "no site is kept out of the folds by splits_table.json: make the splits with `bdfm splits"),
        (KeptOut(without_target=frozenset("a")), ["Ulm"], "no site is kept out"),
    ],
)
def test_sites_that_were_not_kept_out_are_one_sentence(kept_out: KeptOut, wanted: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        kept_out.of_sites(wanted)


@pytest.mark.parametrize("content", [{"external": ["a"]}, {"external": {"site=A": ["../a"]}}, {"without_target": [1]}])
def test_a_table_of_another_shape_is_one_sentence(content: Any, tmp_path: Path) -> None:
    (tmp_path / SPLITS_TABLE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"splits_table\.json"):
        read_kept_out(tmp_path)
