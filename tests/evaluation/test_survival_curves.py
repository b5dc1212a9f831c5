"""Survival at times that several tables know: hand-computed curves, and what is left as it is."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation.survival_curves import at_common_times, survival_at, time_of


@pytest.mark.parametrize(
    ("column", "expected"),
    [("os@12", ("os", 12.0)), ("a@b@1e3", ("a@b", 1000.0)), ("os@", None), ("os@x", None), ("os@-1", None),
     ("os@nan", None), ("os@inf", None), ("@3", ("", 3.0)), ("os", None)],
)  # fmt: skip
def test_columns_of_survival_are_told_from_others(column, expected):
    assert time_of(column) == expected


def test_between_times_survival_is_linear_and_at_known_ones_exact():
    curves = np.array([[0.9, 0.3], [1.0, np.nan]])
    found = survival_at(np.array([2.0, 4.0]), curves, np.array([0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found[0], [1, 0.95, 0.9, 0.6])
    assert np.isnan(found[1, 3]) and found[1, 2] == 1
    assert survival_at(np.array([0.0, 4.0]), np.array([[0.8, 0.4]]), np.array([0.0, 2.0])).tolist() == [
        [0.8, 0.6000000000000001]
    ]


def test_tables_get_the_times_that_all_reach():
    first = {"os": np.array([1.0]), "os@10": np.array([0.9]), "os@40": np.array([0.3]), "age@5": np.array([7.0])}
    second = {"os": np.array([2.0]), "os@20": np.array([0.5]), "age@5": np.array([8.0])}
    one, two = at_common_times([first, second])
    assert list(one) == ["os", "age@5", "os@10", "os@20"] and set(two) == set(one)
    assert [float(one[name][0]) for name in one] == pytest.approx([1.0, 7.0, 0.9, 0.7])
    assert [float(two[name][0]) for name in ("os", "age@5", "os@10", "os@20")] == pytest.approx([2.0, 8.0, 0.75, 0.5])


def test_the_same_times_and_tables_without_any_are_left_alone():
    table = {"os@1": np.array([0.5]), "os@2": np.array([0.25])}
    assert at_common_times([table, table]) == [table, table]
    with_none = [{"os": np.zeros(1)}, table]
    assert [list(each) for each in at_common_times(with_none)] == [["os"], ["os@1", "os@2"]]
