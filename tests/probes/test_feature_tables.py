"""Files of features: every form there and back, those of other programs, and what is no such file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.probes.feature_tables import (
    KIND,
    FeatureTable,
    PartialFeatures,
    is_table,
    read_features,
    write_features_table,
)
from bdfm_nnunet.table_files import write_table

VALUES = np.random.default_rng(4).normal(size=(3, 5)).astype(np.float32)
TABLE = FeatureTable(("a", "b", "c-1"), VALUES, {"kind": KIND, "weights": {"sha256": "0"}})


@pytest.mark.parametrize("name", ["features.npz", "features.csv"])
def test_tables_come_back(tmp_path: Path, name: str) -> None:
    write_features_table(tmp_path / name, TABLE)
    found = read_features(tmp_path / name)
    assert found.cases == TABLE.cases and found.description == TABLE.description
    np.testing.assert_array_equal(found.features, VALUES)
    np.testing.assert_array_equal(found.of(["c-1", "a"]), VALUES[[2, 0]])


@pytest.mark.parametrize("name", ["features.npz", "features.csv", "scans"])
def test_an_interrupted_run_goes_on(tmp_path: Path, name: str) -> None:
    out, settings = tmp_path / name, {"weights": "w"}
    first = PartialFeatures(out, settings)
    first.put("b", VALUES[1])
    second = PartialFeatures(out, settings)
    assert second.missing(TABLE.cases) == ["a", "c-1"]
    second.put("a", VALUES[0])
    second.put("c-1", VALUES[2])
    second.finish(TABLE.cases, TABLE.description)
    np.testing.assert_array_equal(read_features(out).features, VALUES)
    later = PartialFeatures(out, settings)
    assert later.missing([*TABLE.cases, "new"]) == ["new"]
    later.put("new", VALUES[0])
    later.finish([*TABLE.cases, "new"], TABLE.description)
    np.testing.assert_array_equal(read_features(out).of(["new", "b"]), VALUES[[0, 1]])
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".parts")]


@pytest.mark.parametrize("name", ["features.npz", "scans"])
def test_other_settings_take_nothing_over(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    PartialFeatures(out, {"weights": "w"}).put("b", VALUES[1])
    if is_table(out):
        assert PartialFeatures(out, {"weights": "v"}).missing(["b"]) == ["b"]
    else:
        with pytest.raises(InputError, match="holds features made in another way: name another folder"):
            PartialFeatures(out, {"weights": "v"})


def test_a_table_of_another_program(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [["age", "case", "volume"], ["60", "a", "1.5"], ["-2", "b", "3e2"]])
    (tmp_path / "t.json").write_text("[1]")  # something of theirs
    found = read_features(tmp_path / "t.csv")
    assert found.cases == ("a", "b") and found.features.tolist() == [[60, 1.5], [-2, 300]] and not found.description
    np.savez(tmp_path / "t.npz", cases=np.array(["a", "b"]), features=VALUES[:2])
    assert read_features(tmp_path / "t.npz").cases == ("a", "b")


BAD: dict[str, tuple[Any, str]] = {
    "no case": ([["id", "x"], ["a", "1"]], "has no column `case`"),
    "words": ([["case", "x"], ["a", "left"]], "something other than 1 numbers for case a"),
    "not finite": ([["case", "x"], ["a", "nan"]], "features of case a that are not finite"),
    "columns": ([["case", "x", "x"], ["a", "1", "2"]], "has two columns 'x': rename or remove one"),
    "short": ([["x", "case"], ["1", "a"], ["2"]], "something other than 1 numbers for case .: correct it"),
    "twice": ([["case", "x"], ["a", "1"], ["a", "2"]], "the features of case a twice"),
    "outside": ([["case", "x"], ["../a", "1"]], "case id in"),
    "nothing": ([["case", "x"]], "has no column `case` with rows"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tables_are_one_sentence(tmp_path: Path, what: str) -> None:
    rows, fault = BAD[what]
    write_table(tmp_path / "t.csv", rows)
    with pytest.raises(InputError, match=fault):
        read_features(tmp_path / "t.csv")


def test_bad_archives_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist: write it with `bdfm features`"):
        read_features(tmp_path / "f.npz")
    (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(InputError, match="is no file of features"):
        read_features(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", cases=np.array(["a", "b"]), features=VALUES)
    with pytest.raises(InputError, match=r"has 2 cases and features \(3, 5\)"):
        read_features(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", cases=np.array([{"a": 1}], dtype=object), features=VALUES[:1])  # would be a pickle
    with pytest.raises(InputError, match="is no file of features"):
        read_features(tmp_path / "f.npz")
    (tmp_path / "scans").mkdir()
    with pytest.raises(InputError, match=r"holds no CASE\.npy"):
        read_features(tmp_path / "scans")
    np.save(tmp_path / "scans/a.npy", VALUES[0])
    np.save(tmp_path / "scans/b.npy", VALUES[0, :3])
    with pytest.raises(InputError, match="has 3 features"):
        read_features(tmp_path / "scans")


def test_endings_say_the_form() -> None:
    assert is_table(Path("a.npz")) and is_table(Path("A.CSV")) and not is_table(Path("folder.v2"))
    with pytest.raises(InputError, match=r"has the ending \.parquet: name a table"):
        is_table(Path("a.parquet"))
