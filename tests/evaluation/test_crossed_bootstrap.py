"""Intervals over cases and seeds: against loops, and on tables whose spread is known."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation.crossed_bootstrap import summarise_crossed


def slow_means(table: np.ndarray, groups: list[list[int]], resamples: int) -> np.ndarray:
    """Draw seeds and patients one by one, and average what was drawn."""
    generator = np.random.default_rng(7)
    means = []
    for _ in range(resamples):
        seeds = generator.integers(len(table), size=len(table))
        patients = generator.integers(len(groups), size=len(groups))
        drawn = [table[seed, case] for seed in seeds for patient in patients for case in groups[patient]]
        means.append(np.nanmean(drawn))
    return np.array(means)


def test_interval_is_that_of_a_slow_loop() -> None:
    table = np.random.default_rng(3).normal(0.02, 0.05, (4, 9)) + np.array([[0.0], [0.03], [-0.02], [0.01]])
    table[1, 2] = np.nan
    groups = [[0, 1], [2], [3], [4, 5, 6], [7], [8]]
    patients = ["a", "a", "b", "c", "d", "d", "d", "e", "f"]
    found = summarise_crossed(table, patients=patients)
    low, high = np.quantile(slow_means(table, groups, 4000), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    assert found.mean == pytest.approx(np.nanmean(table)) and (found.cases, found.undefined) == (35, 1)


def test_spread_of_seeds_counts() -> None:
    cases = np.linspace(-0.01, 0.01, 20)
    alike = np.stack([cases, cases, cases])
    apart = alike + np.array([[-0.1], [0.0], [0.1]])
    narrow, wide = summarise_crossed(alike), summarise_crossed(apart)
    assert narrow.mean == pytest.approx(wide.mean, abs=1e-12)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    # as if all 60 were independent, the interval would be far too narrow
    assert wide.high - wide.low > 2 * (summarise_crossed(apart.reshape(1, -1)).high * 2)


def test_cases_of_a_patient_are_no_independent_ones() -> None:
    table = np.repeat(np.random.default_rng(0).normal(size=(1, 8)), 5, axis=1)
    together = summarise_crossed(table, patients=[str(i // 5) for i in range(40)])
    apart = summarise_crossed(table)
    assert together.high - together.low > 1.8 * (apart.high - apart.low)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Random effects of seeds and cases: nearly all intervals hold the true mean."""
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        rows, columns = generator.normal(size=(12, 1)), generator.normal(size=(1, 30))
        found = summarise_crossed(rows + columns + generator.normal(size=(12, 30)), resamples=300)
        hits += found.low <= 0 <= found.high
    assert 170 <= hits <= 200


def test_seed_decides_and_shapes_are_checked() -> None:
    table = np.random.default_rng(1).normal(size=(3, 5))
    assert summarise_crossed(table) == summarise_crossed(table)
    assert summarise_crossed(table) != summarise_crossed(table, seed=1)
    assert np.isnan(summarise_crossed([[np.nan]]).mean)
    with pytest.raises(ValueError, match="shape"):
        summarise_crossed([0.5, 0.6])
    with pytest.raises(ValueError, match="5 cases"):
        summarise_crossed(table, patients=["a"])
