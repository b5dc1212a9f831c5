import pytest
import torch
from torch import Tensor

from bdfm_nnunet.networks.position_tables import PositionTable, spread


def _table(frames: int, **options: float) -> PositionTable:
    torch.manual_seed(0)
    return PositionTable(4, (3, 2, 2, frames), **options)


def test_both_tables_are_added() -> None:
    table, tokens = _table(5), torch.randn(2, 3, 2, 2, 5, 4)
    out = table(tokens)
    for place in ((0, 0, 0, 0), (2, 1, 0, 4), (1, 1, 1, 2)):
        expected = tokens[(1, *place)] + table.space[place[:3]] + table.time[place[3]]
        torch.testing.assert_close(out[(1, *place)], expected)


def test_shorter_clips_take_the_first_frames_and_longer_ones_spread() -> None:
    table = _table(20)
    assert torch.equal(table.at_frames(20), table.time) and torch.equal(table.at_frames(7), table.time[:7])
    longer = table.at_frames(39)
    torch.testing.assert_close(longer[::2], table.time)
    torch.testing.assert_close(longer[1::2], (table.time[1:] + table.time[:-1]) / 2)
    assert _table(1).at_frames(3).shape == (3, 4)


def _smooth(frames: int) -> Tensor:
    return torch.stack([torch.sin(torch.linspace(0, 3 + i, frames)) for i in range(4)], 1)


def test_a_smooth_table_survives_the_way_there_and_back() -> None:
    table = _smooth(40)
    assert torch.equal(spread(table, (40,)), table)
    back = spread(spread(table, (20,)), (40,))
    assert ((back - table).norm() / table.norm()).item() < 0.01
    assert (back - table).abs().max() > 0


def test_other_grids_in_space_are_interpolated_axis_by_axis() -> None:
    x, y = torch.meshgrid(torch.linspace(0, 1, 4), torch.linspace(0, 1, 3), indexing="ij")
    finer = spread((2 * x + 3 * y)[..., None], (7, 5))
    x, y = torch.meshgrid(torch.linspace(0, 1, 7), torch.linspace(0, 1, 5), indexing="ij")
    torch.testing.assert_close(finer[..., 0], 2 * x + 3 * y)


def test_positions_in_seconds() -> None:
    table = _table(10, frame_seconds=1.6, table_seconds=0.8)
    found = table.at_frames(7)
    torch.testing.assert_close(found[:5], table.time[::2])
    assert torch.equal(found[5], table.time[-1]) and torch.equal(found[6], table.time[-1])
    slow = _table(10, frame_seconds=0.4)
    torch.testing.assert_close(slow.at_frames(4)[1], (slow.time[0] + slow.time[1]) / 2)
    same = _table(10, frame_seconds=0.8)
    torch.testing.assert_close(same.at_frames(10), same.time)
    found.sum().backward()
    assert table.time.grad is not None and table.time.grad[::2].abs().min() > 0 == table.time.grad[1:-1:2].abs().max()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2, 3\) in space, this table of positions is for \(3, 2, 2\)"):
        _table(5)(torch.zeros(1, 3, 2, 3, 5, 4))
    for options in ({"frame_seconds": 0.0}, {"table_seconds": -1.0}):
        with pytest.raises(ValueError, match="expected numbers above 0"):
            _table(5, **options)
