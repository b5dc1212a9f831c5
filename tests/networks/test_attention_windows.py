import itertools
import math

import pytest
import torch

from bdfm_nnunet.networks.attention_windows import relative_position_index, window_groups

CPU = torch.device("cpu")
CASES = [
    ((6,), (3,), (0,)),
    ((6,), (3,), (1,)),
    ((8,), (4,), (2,)),
    ((5,), (3,), (0,)),
    ((5,), (3,), (1,)),
    ((7,), (4,), (2,)),
    ((7, 4), (3, 4), (1, 0)),
    ((4, 5, 3), (2, 3, 3), (1, 1, 0)),
]


def _see_each_other(first: int, second: int, grid: int, window: int, shift: int) -> bool:
    """One axis: the same window after the roll, and not from opposite faces."""
    padded = math.ceil(grid / window) * window
    windows = [(token - shift) % padded // window for token in (first, second)]
    wrapped = [token < shift for token in (first, second)]
    return windows[0] == windows[1] and wrapped[0] == wrapped[1]


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_pairs_by_the_definition_of_shifted_windows(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    groups = window_groups(grid, window, shift, window, False, CPU)
    points = list(itertools.product(*map(range, grid)))
    found = {}
    for group in groups:
        assert not group.padded
        for row in group.rows.tolist():
            for (i, a), (j, b) in itertools.product(enumerate(row), repeat=2):
                assert (a, b) not in found
                found[a, b] = int(group.index[i, j])
    for a, b in itertools.product(range(len(points)), repeat=2):
        pairs = zip(points[a], points[b], grid, window, shift)
        assert ((a, b) in found) == all(_see_each_other(*pair) for pair in pairs)
        if (a, b) in found:
            expected = 0
            for p, q, size in zip(points[a], points[b], window):
                expected = expected * (2 * size - 1) + p - q + size - 1
            assert found[a, b] == expected


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_padding_takes_part_in_legacy(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> None:
    groups = window_groups(grid, window, shift, window, True, CPU)
    count = math.prod(grid)
    padded = math.prod(math.ceil(size / extent) * extent for size, extent in zip(grid, window))
    rows = torch.cat([group.rows.flatten() for group in groups])
    assert len(rows) == padded
    assert sorted(rows[rows < count].tolist()) == list(range(count))
    assert (rows[rows >= count] == count).all()
    assert any(group.padded for group in groups) == (padded > count)


def test_whole_windows_are_one_group() -> None:
    (group,) = window_groups((6, 6), (3, 3), (0, 0), (3, 3), False, CPU)
    assert group.rows.shape == (4, 9)
    assert group.rows[1].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]


def test_cut_off_windows_halve_the_scores() -> None:
    """The published grid of 24 tokens in windows of 7, as the module says."""
    groups = window_groups((24,) * 3, (7,) * 3, (0,) * 3, (7,) * 3, False, CPU)
    scores = sum(group.rows.shape[0] * group.rows.shape[1] ** 2 for group in groups)
    assert scores / (64 * 343**2) == pytest.approx(((3 * 7**2 + 3**2) / (4 * 7**2)) ** 3)


def test_relative_position_index_by_its_definition() -> None:
    window = (2, 3)
    points = list(itertools.product(range(2), range(3)))
    index = relative_position_index(window, window, False)
    for (i, a), (j, b) in itertools.product(enumerate(points), repeat=2):
        assert index[i, j] == (a[0] - b[0] + 1) * 5 + a[1] - b[1] + 2
