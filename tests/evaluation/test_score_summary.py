import numpy as np
import pytest

from bdfm_nnunet.evaluation.score_summary import summarise, summarise_change


def test_mean_median_and_count():
    summary = summarise([0.0, 0.5, 0.6, 0.9])
    assert (summary.mean, summary.median, summary.cases) == (pytest.approx(0.5), pytest.approx(0.55), 4)
    assert summary.low < summary.mean < summary.high
    assert summary.as_dict()["low"] == summary.low


def test_interval_agrees_with_the_normal_one_for_many_cases():
    scores = np.random.default_rng(0).normal(10, 2, 400)
    summary = summarise(scores, seed=1)
    half = 1.96 * scores.std() / 20
    assert summary.low == pytest.approx(scores.mean() - half, abs=0.02)
    assert summary.high == pytest.approx(scores.mean() + half, abs=0.02)


def test_interval_equals_a_loop_over_the_same_draws():
    scores = [0.1, 0.7, 0.4]
    draws = np.random.default_rng(5).integers(3, size=(50, 3))
    means = sorted(sum(scores[i] for i in draw) / 3 for draw in draws)
    summary = summarise(scores, seed=5, resamples=50, level=0.5)
    assert summary.low == pytest.approx(np.quantile(means, 0.25))
    assert summary.high == pytest.approx(np.quantile(means, 0.75))


def test_seed_level_and_resamples_act():
    scores = list(np.random.default_rng(0).uniform(size=12))
    base = summarise(scores)
    assert summarise(scores) == base
    assert summarise(scores, seed=1) != base
    assert summarise(scores, resamples=100) != base
    narrow = summarise(scores, level=0.5)
    assert base.low < narrow.low < narrow.high < base.high


def test_one_case_has_no_width():
    summary = summarise([0.3])
    assert summary.low == summary.high == summary.mean == 0.3


def test_scores_that_do_not_exist_are_counted_and_left_out():
    assert summarise([0.3, float("nan"), 0.5], seed=2).as_dict() == {**summarise([0.3, 0.5], seed=2).as_dict(),
                                                                     "undefined": 1}  # fmt: skip
    nothing = summarise([float("nan")])
    assert (nothing.cases, nothing.undefined) == (0, 1) and np.isnan([nothing.mean, nothing.low, nothing.median]).all()


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(ValueError, match="expected at least one score"):
        summarise([])


def test_change_of_scores_that_all_exist_is_the_mean_of_the_changes():
    random = np.random.default_rng(0)
    before, after = random.random(20), random.random(20)
    expected, found = summarise(after - before, seed=3), summarise_change(before, after, seed=3)
    assert found.as_dict() == pytest.approx(expected.as_dict())
    same = summarise_change(before, before)
    assert (same.mean, same.low, same.high, same.median) == (0, 0, 0, 0)


def test_change_against_a_loop_where_scores_appear_and_vanish():
    before, after = np.array([0.1, np.nan, 0.5, np.nan, 0.9]), np.array([0.4, 0.8, np.nan, np.nan, 1.0])
    draws = np.random.default_rng(2).integers(4, size=(300, 4))
    kept = [0, 1, 2, 4]  # the fourth case has no score at all
    changes = []
    for draw in draws:
        first, second = ([side[kept[i]] for i in draw if np.isfinite(side[kept[i]])] for side in (before, after))
        if first and second:
            changes.append(np.mean(second) - np.mean(first))
    found = summarise_change(before, after, seed=2, resamples=300)
    assert found.mean == pytest.approx(2.2 / 3 - 0.5)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(changes, [0.025, 0.975])))
    assert (found.median, found.cases, found.undefined) == (pytest.approx(0.2), 4, 2)


def test_change_without_any_score_on_one_side_is_not_known():
    found = summarise_change([np.nan, np.nan], [1.0, 0.5])
    assert np.isnan(found.mean) and (found.cases, found.undefined) == (0, 2)
