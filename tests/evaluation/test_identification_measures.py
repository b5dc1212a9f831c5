"""Re-identification against numbers worked out by hand, loops over runs, and scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from bdfm_nnunet.evaluation.identification_measures import identification_scores, identify


def slow(features, subjects, sessions, gallery):
    """Query -> (rank of the first right candidate, average precision, candidates), one pair after the other."""
    found = {}
    for query in range(len(subjects)):
        scored = []
        for other in gallery:
            same = subjects[other] == subjects[query]
            if other == query or (same and sessions is not None and sessions[other] == sessions[query]):
                continue
            lengths = np.sqrt((features[query] ** 2).sum()) * np.sqrt((features[other] ** 2).sum())
            scored.append((float((features[query] * features[other]).sum() / lengths), same))
        right = [score for score, same in scored if same]
        if right:
            first = 1 + sum(score > max(right) for score, same in scored if not same)
            precision = average_precision_score([same for _, same in scored], [score for score, _ in scored])
            found[query] = (first, precision, len(scored), len(right))
    return found


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(3)
    subjects = [f"s{number}" for number in range(8) for _ in range(4)] + ["alone"]
    sessions = ["a", "a", "b", "b"] * 8 + ["a"]
    own = {name: rng.normal(size=5) for name in subjects}
    features = np.array([own[name] + rng.normal(size=5) for name in subjects])
    return features, subjects, sessions


@pytest.mark.parametrize("with_sessions", [False, True])
@pytest.mark.parametrize("gallery", [None, [0, 1, 6, 9, 12, 17, 20, 25, 28, 32]])
def test_ranks_are_those_of_a_loop_over_pairs(runs, with_sessions, gallery):
    features, subjects, sessions = runs
    days = sessions if with_sessions else None
    found = identify(features, subjects, sessions=days, gallery=gallery)
    expected = slow(features, subjects, days, range(33) if gallery is None else gallery)
    assert found.queries.tolist() == list(expected) and found.left_out == 33 - len(expected)
    own = zip(found.first, found.precision, found.candidates, found.right)
    np.testing.assert_allclose(list(own), list(expected.values()), rtol=1e-12)
    assert len(set(found.first)) > 2
    assert found.subjects == tuple(subjects[query] for query in expected)


def test_hand_computed_scores():
    """Run 0 of a finds b first, then a and a: precision (1/2 + 2/3) / 2."""
    degrees = np.deg2rad([0, 20, 30, 10, 180])
    features = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    found = identify(features, ["a", "a", "a", "b", "b"])
    # run 1 is as near to run 2, of a, as to run 3, of b, which counts against a
    assert found.first.tolist() == [2, 2, 1, 4, 3]
    assert found.precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_equal_similarities_count_against_the_subject():
    found = identify(np.ones((4, 3)), ["a", "a", "b", "b"])
    assert found.first.tolist() == [3] * 4
    assert identification_scores(found, resamples=20)["rank_1"]["value"] == 0
    assert identify(np.zeros((4, 3)), ["a", "a", "b", "b"]).first.tolist() == [3] * 4


def test_length_of_features_does_not_matter_and_their_direction_does(runs):
    features, subjects, _ = runs
    scale = np.geomspace(1e-200, 1e200, len(features))[:, None]
    plain, scaled = identify(features, subjects), identify(features * scale, subjects)
    assert plain.first.tolist() == scaled.first.tolist()
    assert plain.first.tolist() != identify(features + 3, subjects).first.tolist()


def test_runs_of_the_own_session_are_no_candidates(runs):
    features, subjects, sessions = runs
    twins = np.array(features)
    twins[1::4] = twins[0:32:4]  # two runs of a session are the same image
    without, with_days = identify(twins, subjects), identify(twins, subjects, sessions=sessions)
    assert (without.first[0:32:4] == 1).all() and (with_days.first[0:32:4] > 1).any()
    assert with_days.right.tolist() == [2] * 32 and without.right.tolist() == [3] * 32


def test_intervals_draw_subjects_and_chance_is_the_mean_of_random_orders(runs):
    features, subjects, sessions = runs
    found = identify(features, subjects, sessions=sessions)
    scores = identification_scores(found, ranks=[1, 3], resamples=500, seed=1)
    first = scores["rank_1"]
    assert set(scores) == {"rank_1", "rank_3", "mean_average_precision"}
    assert first["value"] == np.mean(found.first == 1) < scores["rank_3"]["value"]
    assert first["interval"][0] < first["value"] < first["interval"][1] and first["patients"] == 8
    assert first["chance"] == pytest.approx(2 / 31)
    assert scores["rank_3"]["chance"] == pytest.approx(1 - 29 * 28 * 27 / (31 * 30 * 29))
    precision = scores["mean_average_precision"]
    again = identification_scores(found, ranks=[1], resamples=500, seed=2)["mean_average_precision"]
    assert again["value"] == precision["value"] and again["interval"] != precision["interval"]


def test_chance_of_the_precision_is_that_of_all_orders():
    found = identify(np.eye(6)[:, :5], ["a", "a", "a", "b", "b", "b"])
    orders = set(permutations([1, 1, 0, 0, 0]))
    expected = np.mean([average_precision_score(order, range(5)) for order in orders])
    assert identification_scores(found, resamples=10)["mean_average_precision"]["chance"] == pytest.approx(expected)


def test_features_without_pairs_and_damaged_ones():
    alone = identify(np.eye(3), ["a", "b", "c"])
    scores = identification_scores(alone, resamples=10)
    assert alone.left_out == 3 and scores["rank_1"]["value"] is None and scores["rank_1"]["chance"] is None
    assert "another run or session" in scores["rank_1"]["note"]
    with pytest.raises(ValueError, match="not finite"):
        identify(np.array([[1.0, np.nan]]), ["a"])
    with pytest.raises(ValueError, match="2 subjects"):
        identify(np.eye(3), ["a", "b"])
