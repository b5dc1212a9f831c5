"""Measures of survival against hand-computed cases, slow code and, where they are installed, other packages."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from bdfm_nnunet.evaluation import survival_measures as ours

N = 25
AT = np.array([2.0, 4.0, 6.0])


@pytest.fixture(scope="module")
def cases():
    """Whole times, so that many tie, with half of the cases censored."""
    rng = np.random.default_rng(9)
    time = rng.integers(1, 10, N).astype(float)
    event = rng.random(N) < 0.6
    risk = np.round(-time / 5 + rng.normal(0, 1, N), 1)
    survival = np.sort(rng.random((N, 3)), axis=1)[:, ::-1]
    weights = np.stack([np.ones(N), *(rng.multinomial(N, np.full(N, 1 / N)) for _ in range(3))]).astype(float)
    return time, event, risk, survival, weights


def slow_concordance(time, event, risk):
    pairs = agreed = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                agreed += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return agreed / pairs


def slow_uncensored(time, event, at, *, before=False):
    """The Kaplan-Meier estimate of staying uncensored after `at`, or just before it."""
    share = 1.0
    for t in sorted(set(time)):
        if t > at or (before and t == at):
            break
        events = sum(1 for s, e in zip(time, event) if s == t and e)
        censored = sum(1 for s, e in zip(time, event) if s == t and not e)
        exposed = sum(1 for s in time if s >= t) - events
        if exposed:
            share *= 1 - censored / exposed
    return share


def slow_brier(time, event, survival, at):
    total = 0.0
    for t, e, s in zip(time, event, survival):
        if t <= at and e:
            total += s**2 / slow_uncensored(time, event, t, before=True)
        elif t > at:
            total += (1 - s) ** 2 / slow_uncensored(time, event, at)
    return total / len(time)


def written_out(cases):
    *arrays, weights = cases
    return [[np.repeat(array, row.astype(int), axis=0) for array in arrays] for row in weights]


def test_concordance_is_that_of_slow_code(cases):
    time, event, risk, _, weights = cases
    expected = [slow_concordance(t, e, r) for t, e, r, _ in written_out(cases)]
    np.testing.assert_allclose(ours.concordance(time, event, risk, weights), expected, rtol=1e-12)
    assert np.ptp(expected) > 0.01


def test_concordance_in_blocks_is_the_same(cases, monkeypatch):
    time, event, risk, _, weights = cases
    whole = ours.concordance(time, event, risk, weights)
    monkeypatch.setattr(ours, "_BLOCK", 7)
    np.testing.assert_allclose(ours.concordance(time, event, risk, weights), whole, rtol=1e-12)


def test_concordance_by_hand():
    """Comparable: a before b, c, d; b before d; c and b tie with an event in b alone. Right are ab, ac, bc; bd ties."""
    time, event = np.array([1.0, 3.0, 3.0, 5.0]), np.array([True, True, False, False])
    risk = np.array([2.0, 1.0, 0.0, 1.0])
    assert ours.concordance(time, event, risk, np.ones((1, 4)))[0] == pytest.approx((1 + 1 + 1 + 1 + 0.5) / 5)
    assert np.isnan(ours.concordance(time, event, risk, np.zeros((1, 4)))[0])
    assert np.isnan(ours.concordance(time, np.zeros(4, dtype=bool), risk, np.ones((1, 4)))[0])


def test_two_events_at_one_time_are_no_pair():
    assert np.isnan(ours.concordance(np.ones(2), np.ones(2, dtype=bool), np.array([1.0, 2.0]), np.ones((1, 2)))[0])


def test_kaplan_meier_by_hand():
    """Times 1, 2+, 3, 3+, 5 (+ censored): at risk 5, 4, 3, 1; events 1, 0, 1, 1."""
    time, event = np.array([3.0, 1.0, 2.0, 5.0, 3.0]), np.array([True, True, False, True, False])
    times, share, at_risk = ours.kaplan_meier(time, event, np.ones((1, 5)))
    assert times.tolist() == [1, 2, 3, 5]
    np.testing.assert_allclose(share[0], [4 / 5, 4 / 5, 4 / 5 * 2 / 3, 0], atol=1e-12)
    assert at_risk[0].tolist() == [5, 4, 3, 1]


def test_brier_score_by_hand():
    """Event at 1, censored at 2, event at 3, alive at 4; at 3 the censored one counts 0, G is 2/3 from 2 on."""
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    survival = np.array([[0.5], [0.5], [0.2], [0.7]])
    expected = (0.5**2 / 1 + 0 + 0.2**2 / (2 / 3) + 0.3**2 / (2 / 3)) / 4
    assert ours.brier_at(time, event, survival, np.array([3.0]), np.ones((1, 4)))[0, 0] == pytest.approx(expected)


def test_brier_scores_are_those_of_slow_code(cases):
    time, event, _, survival, weights = cases
    found = ours.brier_at(time, event, survival, AT, weights)
    expected = [[slow_brier(t, e, s[:, k], at) for k, at in enumerate(AT)] for t, e, _, s in written_out(cases)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    whole = ours.integrated_brier(time, event, survival, AT, weights)
    np.testing.assert_allclose(whole, trapezoid(expected, AT, axis=1) / (AT[-1] - AT[0]), rtol=1e-12)


def test_one_time_is_its_own_mean(cases):
    time, event, _, survival, weights = cases
    one = ours.integrated_brier(time, event, survival[:, :1], AT[:1], weights)
    np.testing.assert_array_equal(one, ours.brier_at(time, event, survival[:, :1], AT[:1], weights)[:, 0])


def test_without_censoring_it_is_the_brier_score(cases):
    time, _, _, survival, weights = cases
    found = ours.brier_at(time, np.ones(N, dtype=bool), survival, AT, weights[:1])[0]
    np.testing.assert_allclose(found, ((survival - (time[:, None] > AT)) ** 2).mean(axis=0))


@pytest.fixture
def without_ties(cases):
    """Packages differ in how they take ties of times."""
    time, event, risk, survival, _ = cases
    return time + np.arange(N) / 100, event, risk, survival, np.ones((1, N))


def test_lifelines_agrees(without_ties):
    utils = pytest.importorskip("lifelines.utils", reason="lifelines is not installed")
    time, event, risk, _, once = without_ties
    assert ours.concordance(time, event, risk, once)[0] == pytest.approx(utils.concordance_index(time, -risk, event))
    lifelines = pytest.importorskip("lifelines")
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    times, share, _ = ours.kaplan_meier(time, event, once)
    np.testing.assert_allclose(share[0], fitted.survival_function_at_times(times).to_numpy())


def test_scikit_survival_agrees(without_ties):
    metrics = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not installed")
    time, event, risk, survival, once = without_ties
    theirs = metrics.concordance_index_censored(event, time, risk)[0]
    assert ours.concordance(time, event, risk, once)[0] == pytest.approx(theirs)
    outcome = np.array(list(zip(event, time)), dtype=[("e", bool), ("t", float)])
    scores = metrics.brier_score(outcome, outcome, survival, AT)[1]
    np.testing.assert_allclose(ours.brier_at(time, event, survival, AT, once)[0], scores)
    whole = metrics.integrated_brier_score(outcome, outcome, survival, AT)
    assert ours.integrated_brier(time, event, survival, AT, once)[0] == pytest.approx(whole)
