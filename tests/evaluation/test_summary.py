import numpy as np
import pytest

from bdfm_nnunet.evaluation.summary import summarise


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
