"""Targets are read back as they were written, and files that do not fit each other are refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import (
    TARGETS_TABLE,
    TARGETS_TYPES,
    TargetColumn,
    Targets,
    TargetType,
    copy_targets,
    read_targets,
    write_targets,
)


def every_kind() -> Targets:
    """One target of each type, each with a missing value; the group `sex` has the name of a target."""
    nothing = np.nan
    columns = [
        TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")),
        TargetColumn("side", TargetType.MULTICLASS, ("left", "=right", "both")),
        TargetColumn("grade", TargetType.ORDINAL, ("2", "3", "4")),
        TargetColumn("sex", TargetType.BINARY, ("-", "+")),
        TargetColumn("age", TargetType.CONTINUOUS, unit="years"),
        TargetColumn("os", TargetType.SURVIVAL, unit="days"),
    ]
    numbers = [[0, 1, nothing], [1, nothing, 2], [2, 0, 1], [nothing, 1, 0], [0.1 + 0.2, nothing, -3],
               [[10.5, 1], [nothing, nothing], [20, 0]]]  # fmt: skip
    return Targets(
        columns={column.name: column for column in columns},
        cases=("a", "b", "c"),
        patients={"a": "P1", "b": "P1", "c": "P2"},
        groups={"site": {"a": "Ulm", "c": "Köln"}, "sex": {"a": "F", "b": "F", "c": "M"}},
        numbers={c.name: np.array(n, dtype=float).reshape(3, -1) for c, n in zip(columns, numbers)},
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    targets = every_kind()
    write_targets(tmp_path, targets, notes={"source": "table.csv"})
    there = read_targets(tmp_path / "not there", tmp_path)
    assert there.columns == targets.columns and there.cases == targets.cases
    assert there.patients == targets.patients and there.groups == targets.groups
    for name in targets.columns:
        np.testing.assert_array_equal(there.numbers[name], targets.numbers[name])
    assert json.loads((tmp_path / TARGETS_TYPES).read_text())["source"] == "table.csv"


def test_targets_are_copied_beside_preprocessed_data(tmp_path: Path) -> None:
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    raw.mkdir()
    preprocessed.mkdir()
    copy_targets(raw, preprocessed)
    assert not list(preprocessed.iterdir())
    write_targets(raw, every_kind())
    copy_targets(raw, preprocessed)
    assert {path.name for path in preprocessed.iterdir()} == {TARGETS_TABLE, TARGETS_TYPES}
    assert read_targets(preprocessed).patients == every_kind().patients


def test_values_come_in_the_order_asked_for_and_unknown_cases_are_missing() -> None:
    targets = every_kind()
    np.testing.assert_array_equal(targets.values("grade", ["c", "x", "a"]), [[1], [np.nan], [2]])
    np.testing.assert_array_equal(targets.values("os", ["c"]), [[20, 0]])
    assert targets.values("os", []).shape == (0, 2)
    assert targets.known("os") == ("a", "c")
    with pytest.raises(InputError, match="no target idx, only idh, side, grade, sex, age, os: name one of these"):
        targets.values("idx", ["a"])


def test_a_folder_without_both_files_is_told_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hold no targets.csv with targets.json: .* `bdfm targets -d ID TABLE.csv`"):
        read_targets(tmp_path)
    write_targets(tmp_path, every_kind())
    (tmp_path / TARGETS_TYPES).unlink()
    with pytest.raises(InputError, match=r"hold no targets.csv"):
        read_targets(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("case,patient,idh", "case,patient,IDH", "has 0 columns 'idh', expected one"),
        ("a,P1,wildtype", "a,P1,unknown", "gives case a the idh 'unknown', which is none of wildtype, mutant"),
        ("c,P2", "a,P2", "has two rows for case a"),
        ("c,P2", "../c,P2", "case id in .* is no usable name"),
        (",20,0,", ",20,2,", "gives case c the os event '2', expected 0 or 1"),
        (",20,0,", ",inf,0,", "gives case c the os time 'inf', expected a number"),
        (",-3,", ",three,", "gives case c the age 'three', expected a number"),
    ],
)
def test_a_damaged_table_is_one_sentence(old: str, new: str, message: str, tmp_path: Path) -> None:
    write_targets(tmp_path, every_kind())
    path = tmp_path / TARGETS_TABLE
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_targets(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"type": "bin", "classes": ["a", "b"]},
            "gives target idh the type 'bin', expected one of binary, multi-class",
        ),
        ({"type": "binary", "classes": ["a"]}, r"gives the binary target idh the classes \['a'\]"),
        ({"type": "ordinal", "classes": ["a", "a"]}, r"gives the ordinal target idh the classes \['a', 'a'\]"),
        ({"type": "binary", "classes": "ab"}, "targets.idh.classes is 'ab', expected a list"),
    ],
)
def test_damaged_types_are_one_sentence(entry: object, message: str, tmp_path: Path) -> None:
    write_targets(tmp_path, every_kind())
    content = json.loads((tmp_path / TARGETS_TYPES).read_text())
    content["targets"]["idh"] = entry
    (tmp_path / TARGETS_TYPES).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_targets(tmp_path)
