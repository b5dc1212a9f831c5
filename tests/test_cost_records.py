"""Costs that are counted once."""

import json
from pathlib import Path

import pytest

from bdfm_nnunet import cost_records
from bdfm_nnunet.cost_records import FILE, MOST_RECORDS, Costs, remembered

COSTS = Costs(parameters=1, activation_bytes=2, state_bytes=3, forward_flops=4, backward_flops=None)


def refuse() -> Costs:
    raise AssertionError("counted again")


def test_costs_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered(tmp_path, {"patch": [16]}, lambda: COSTS) == COSTS
    assert remembered(tmp_path, {"patch": [16]}, refuse) == COSTS
    with pytest.raises(AssertionError, match="counted again"):
        remembered(tmp_path, {"patch": [32]}, refuse)
    monkeypatch.setattr(cost_records, "__version__", "99")
    with pytest.raises(AssertionError, match="counted again"):
        remembered(tmp_path, {"patch": [16]}, refuse)


@pytest.mark.parametrize("content", ["[", "[]", '{"a": {"parameters": "x"}}', '{"a": 5}'])
def test_a_damaged_file_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert remembered(tmp_path, 1, lambda: COSTS) == COSTS
    assert remembered(tmp_path, 1, refuse) == COSTS


def test_no_file_is_needed(tmp_path: Path) -> None:
    assert remembered(tmp_path / "file" / "below", 1, lambda: COSTS) == COSTS
    (tmp_path / "taken").touch()
    assert remembered(tmp_path / "taken", 1, lambda: COSTS) == COSTS


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    for number in range(MOST_RECORDS + 5):
        remembered(tmp_path, number, lambda: COSTS)
    assert len(json.loads((tmp_path / FILE).read_text())) == MOST_RECORDS
    remembered(tmp_path, MOST_RECORDS + 4, refuse)
