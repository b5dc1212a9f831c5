import itertools
import math

import pytest
import torch
from torch.nn.functional import pad

from bdfm_nnunet.networks.scan_windows import window_sequences

CPU = torch.device("cpu")
CASES = [
    ((8,), (4,), (0,)),
    ((8,), (4,), (2,)),
    ((5,), (3,), (1,)),
    ((7, 4), (3, 4), (1, 0)),
    ((6, 5, 3), (4, 2, 3), (2, 1, 0)),
    ((6, 4, 2, 7), (4, 4, 2, 4), (2, 0, 0, 2)),
]
Shape = tuple[int, ...]


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_legacy_windows_are_those_of_the_rolled_grid(grid: Shape, window: Shape, shift: Shape) -> None:
    numbers = torch.arange(math.prod(grid)).reshape(grid)
    spare = [-n % w for n, w in zip(grid, window)]
    padded = pad(numbers, [n for s in reversed(spare) for n in (0, s)], value=math.prod(grid))
    rolled = torch.roll(padded, [-s for s in shift], tuple(range(len(grid))))
    corners = itertools.product(*(range(0, n, w) for n, w in zip(rolled.shape, window)))
    expected = [rolled[tuple(slice(c, c + w) for c, w in zip(corner, window))].flatten() for corner in corners]
    (group,) = window_sequences(grid, window, shift, True, CPU)
    assert group.valid is None and torch.equal(group.rows, torch.stack(expected))


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_windows_hold_neighbours_alone_and_every_token_once(grid: Shape, window: Shape, shift: Shape) -> None:
    def window_of(place: int, extent: int, step: int) -> int:  # the first one is cut to `step` tokens
        return (place - step) // extent

    found = []
    for group in window_sequences(grid, window, shift, False, CPU):
        valid = torch.ones_like(group.rows).bool() if group.valid is None else group.valid
        assert (group.rows[~valid] == math.prod(grid)).all() and valid.float().mean(1).min() >= 0.75
        for row, kept in zip(group.rows, valid, strict=True):
            found.append(row[kept].tolist())
            assert row[: int(kept.sum())].tolist() == found[-1]
    assert sorted(itertools.chain(*found)) == list(range(math.prod(grid)))
    places = list(itertools.product(*map(range, grid)))
    windows: dict[Shape, list[int]] = {}
    for number, place in enumerate(places):  # raster order: the last axis is fastest
        key = tuple(window_of(*each) for each in zip(place, window, shift))
        windows.setdefault(key, []).append(number)
    assert sorted(found) == sorted(windows.values())


def test_windows_of_similar_lengths_are_scanned_together() -> None:
    groups = window_sequences((16, 8, 8, 21), (4, 4, 4, 4), (2, 2, 2, 2), False, CPU)
    assert [group.rows.shape[1] for group in groups] == [256, 128, 64, 32, 16]
    assert sum(group.rows.numel() for group in groups) < 1.05 * 16 * 8 * 8 * 21
