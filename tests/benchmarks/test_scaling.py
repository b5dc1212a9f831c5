"""Curves of cost: what is drawn and told is what was measured."""

from typing import Any

import pytest
import scaling


def point(size: int, batch: int, name: str, seconds: float) -> dict[str, Any]:
    return {
        "size": size, "batch": batch, "type": name, "seconds": [seconds, 1.5 * seconds, 0.5 * seconds],
        "bytes": batch * 2**30, "flops": 10**12, "floor_seconds": seconds / 4,
    }  # fmt: skip


VOLUMES = [point(size, 1, name, seconds * (size / 32) ** 3) for size in (32, 64, 96) for name, seconds in
           (("fp32", 1.0), ("bf16", 0.5))]  # fmt: skip
BATCHES = [point(96, batch, name, batch**power) for batch in (1, 2, 4) for name, power in (("fp32", 1), ("bf16", 0))]


def test_rows_hold_the_measured_values() -> None:
    table = scaling.table("Batch", BATCHES)
    assert table.rows[4] == ["96^3", "4", "fp32", "4 (2 to 6)", "1", "4.00", "1", "4 (2 to 6)"]
    assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize(
    ("points", "axis", "told"),
    [
        (VOLUMES, "size", "seconds grow with the voxels to the power of 1.00, 1.00 in fp32; 1.00, 1.00 in bf16."),
        (BATCHES, "batch", "seconds grow with the batch to the power of 1.00, 1.00 in fp32; 0.00, 0.00 in bf16."),
    ],
)
def test_growth_is_told_as_powers(points: list[dict[str, Any]], axis: str, told: str) -> None:
    assert scaling.exponents(points, axis).endswith(told)


def test_one_point_does_not_grow() -> None:
    assert scaling.exponents(VOLUMES[:2], "size") == ""


def test_figure_shows_all_points() -> None:
    seconds_by_size, seconds_by_batch, memory_by_size, memory_by_batch = scaling.draw(VOLUMES, BATCHES).axes
    assert [text.get_text() for text in memory_by_size.get_xticklabels()] == ["32³", "64³", "96³"]
    assert [text.get_text() for text in memory_by_batch.get_xticklabels()] == ["1", "2", "4"]
    measured = seconds_by_batch.containers[0].lines[0]
    assert list(measured.get_ydata()) == [1, 2, 4]
    assert list(memory_by_batch.lines[0].get_ydata()) == [1, 2, 4]
    for axes in (seconds_by_size, seconds_by_batch, memory_by_size, memory_by_batch):
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= axes.dataLim.y1
