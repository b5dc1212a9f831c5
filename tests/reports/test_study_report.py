"""The report of a study: means, paired differences, and words that say what was found."""

from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.evaluation.crossed_bootstrap import summarise_crossed
from bdfm_nnunet.reports.study_entries import StudyFacts, entries
from bdfm_nnunet.reports.study_figure import study_figure
from bdfm_nnunet.reports.study_measures import DICE
from bdfm_nnunet.reports.study_report import findings, study_text, verdict

BASELINES = dict.fromkeys(("scratch", "good", "bad", "a"), "scratch")
CASES = [f"case_{i}" for i in range(12)]


def rows(gains: dict[str, dict[float, float]], *, seeds: int = 3, noise: float = 0.02) -> list[dict[str, Any]]:
    """Scores of arms that differ by known gains, with the same difficulty of each case and luck of each seed."""
    generator = np.random.default_rng(2)
    hard, luck = generator.uniform(0, 0.3, len(CASES)), generator.normal(0, 0.01, seeds)
    return [
        {"arm": arm, "fraction": fraction, "seed": seed, "case": case, "patient": case[:6], "region": region,
         "train_cases": int(fraction), "dice": 0.5 + hard[i] + luck[seed] + gain + generator.normal(0, noise)}
        for arm, table in gains.items() for fraction, gain in table.items() for seed in range(seeds)
        for i, case in enumerate(CASES) for region in ("front", "back")
    ]  # fmt: skip


def facts(found: list[dict[str, Any]], **changes: Any) -> StudyFacts:
    costs = {(row["arm"], row["fraction"]): (0.5, 0.0 if row["arm"] == "scratch" else 1.5) for row in found}
    given: dict[str, Any] = {"title": "T", "baselines": BASELINES, "setup": ["how"], "warnings": [], "costs": costs}
    return StudyFacts(**given, chosen={("scratch", 5.0): "initial_lr 0.001"}, **changes)


GAINS = {"scratch": {5.0: 0.0, 100.0: 0.0}, "good": {5.0: 0.05, 100.0: 0.0}, "bad": {5.0: -0.05, 100.0: -0.04}}


def test_differences_are_those_that_were_made() -> None:
    found = rows(GAINS)
    table = {(entry.arm, entry.fraction): entry for entry in entries(found, facts(found))}
    assert list(table) == [(arm, fraction) for fraction in (5.0, 100.0) for arm in GAINS]
    for (arm, fraction), entry in table.items():
        own = [row["dice"] for row in found if (row["arm"], row["fraction"]) == (arm, fraction)]
        assert entry.score.mean == pytest.approx(np.mean(own)) and (entry.seeds, entry.cases) == (3, fraction)
        if arm == "scratch":
            assert entry.difference is None and entry.per_hour == pytest.approx(entry.score.mean / 0.5)
            continue
        assert entry.difference is not None
        assert entry.difference.low <= GAINS[arm][fraction] + 0.005 and entry.difference.mean == pytest.approx(
            GAINS[arm][fraction], abs=0.012
        )
        assert set(entry.regions) == {"front", "back"}
        # pairs take out how hard the cases are
        assert entry.difference.high - entry.difference.low < 0.5 * (entry.score.high - entry.score.low)
    assert table["good", 5.0].per_hour == pytest.approx(table["good", 5.0].score.mean / 2)


def test_seeds_that_hold_out_other_patients_are_no_second_sample() -> None:
    """Four turns that test three cases each are one repetition of twelve cases, and eight turns are two."""
    found = [row for row in rows({"scratch": {5.0: 0.0}, "good": {5.0: 0.05}}, seeds=8)
             if CASES.index(row["case"]) % 4 == row["seed"] % 4]  # fmt: skip
    for seeds, repetitions in ((4, 1), (8, 2)):
        some = [row for row in found if row["seed"] < seeds]
        entry = entries(some, facts(some))[1]
        dice = {(row["arm"], row["case"], row["region"], row["seed"] // 4): row["dice"] for row in some}
        table = [
            [
                np.mean([dice["good", case, name, n] - dice["scratch", case, name, n] for name in ("front", "back")])
                for case in CASES
            ]
            for n in range(repetitions)
        ]
        assert entry.difference is not None and entry.seeds == seeds
        wanted = summarise_crossed(table, patients=[case[:6] for case in CASES])
        assert (entry.difference.low, entry.difference.high) == pytest.approx((wanted.low, wanted.high))


def test_one_patient_is_no_finding() -> None:
    found = [{**row, "patient": "p"} for row in rows({"scratch": {5.0: 0.0}, "good": {5.0: 0.05}}, seeds=1)]
    about = facts(found)
    told = findings(entries(found, about), about)
    assert "good differs from scratch by +0.0" in told[0] and "in the one patient" in told[0]
    assert "ahead of scratch with 0, behind with 0" in told[1]


@pytest.mark.parametrize(("sign", "word"), [(1, "better"), (-1, "worse")])
def test_a_difference_too_small_for_three_digits_is_not_told_as_zero(sign: int, word: str) -> None:
    found = rows({"scratch": {5.0: 0.0}, "good": {5.0: 0.0}})
    for row in found:
        row["dice"] = 0.5 + (row["arm"] == "good") * sign * (0.0001 if row["region"] == "front" else 0.0003)
    about = facts(found)
    told = next(verdict(entry) for entry in entries(found, about) if entry.difference)
    assert told.endswith(f"good is {word} than scratch by 0.0002 Dice [0.0002, 0.0002].")


def test_words_tell_gains_losses_and_what_cannot_be_told() -> None:
    found = rows(GAINS)
    about = facts(found)
    table = entries(found, about)
    told = {(e.arm, e.fraction): verdict(e) for e in table if e.difference}
    assert "good is better than scratch by 0.0" in told["good", 5.0]
    assert "cannot be told apart" in told["good", 100.0] and "spans zero" in told["good", 100.0]
    assert "bad is worse than scratch by 0.0" in told["bad", 5.0] and "[0.0" in told["bad", 5.0]
    summary = findings(table, about)
    assert "In all, good is ahead of scratch with 1, behind with 0 and not told apart from it with 1 of 2 label" in str(
        summary
    )
    assert "In all, bad is ahead of scratch with 0, behind with 2" in str(summary)


def test_arms_that_have_all_learned_nothing_are_no_draw() -> None:
    found = [row | {"dice": 0.0} if row["fraction"] == 5.0 else row for row in rows(GAINS)]
    (told,) = (each for each in findings(entries(found, facts(found)), facts(found)) if "learned nothing" in each)
    assert told.startswith("With 5 % of the labels no arm") and "0.000 Dice" in told
    one_learns = [row | {"dice": 0.4} if row["arm"] == "good" else row for row in found]
    assert not any("learned nothing" in each for each in findings(entries(one_learns, facts(found)), facts(found)))


def test_few_seeds_and_many_intervals_are_said() -> None:
    two = rows(GAINS, seeds=2)
    assert "fewer than three seeds" in str(findings(entries(two, facts(two)), facts(two)))
    three = rows(GAINS)
    assert "three seeds" not in str(findings(entries(three, facts(three)), facts(three)))
    many = rows({"scratch": dict.fromkeys((1.0, 2, 3, 4, 5), 0.0), "a": dict.fromkeys((1.0, 2, 3, 4, 5), 0.0)})
    assert "Of 5 intervals, about one in twenty" in str(findings(entries(many, facts(many)), facts(many)))


def test_an_unfinished_study_compares_the_seeds_that_both_have() -> None:
    found = [row for row in rows(GAINS) if not (row["arm"] == "scratch" and row["seed"] == 2)]
    about = facts(found, missing=2)
    table = {(entry.arm, entry.fraction): entry for entry in entries(found, about)}
    both = [row for row in found if row["seed"] < 2 and row["fraction"] == 5.0]
    mean = {arm: np.mean([row["dice"] for row in both if row["arm"] == arm]) for arm in GAINS}
    change = table["good", 5.0].difference
    assert change is not None and change.mean == pytest.approx(mean["good"] - mean["scratch"])
    assert "2 tasks are not finished" in study_text(list(table.values()), about)
    only = [row for row in found if row["arm"] != "scratch"]
    assert all(entry.difference is None for entry in entries(only, facts(only)))


def test_undefined_scores_are_left_out() -> None:
    found = rows(GAINS)
    for row in found:
        if (row["case"] == "case_3" and row["region"] == "back") or row["case"] == "case_4":
            row["dice"] = None
    table = entries(found, facts(found))
    assert all(entry.score.undefined == 3 and np.isfinite(entry.score.mean) for entry in table)


def test_page_and_figure() -> None:
    found = rows(GAINS)
    about = facts(
        found,
    )
    table = entries(found, about)
    page = study_text(table, about, figures={DICE: "dice.png"})
    for piece in ("| 5 % (5) | good | 3 | 0.", "| +0.0", "Differences region by region", "![Mean Dice](dice.png)",
                  "- scratch, 5 %: initial_lr 0.001", "- how"):  # fmt: skip
        assert piece in page
    assert "What limits this" not in page and "nan" not in page
    figure = study_figure(table)
    left, right = figure.axes
    assert len(left.containers) == 3 and len(right.containers) == 2
    assert [label.get_text() for label in left.get_xticklabels()] == ["5 %", "100 %"]


def test_arms_may_have_a_baseline_of_their_own() -> None:
    found = rows(GAINS)
    about = facts(found)
    about = StudyFacts(**{**about.__dict__, "baselines": {"scratch": "scratch", "good": "scratch", "bad": "good"}})
    table = {(entry.arm, entry.fraction): entry for entry in entries(found, about)}
    change = table["bad", 5.0].difference
    assert change is not None and change.mean == pytest.approx(-0.1, abs=0.012)
    assert "bad is worse than good by" in verdict(table["bad", 5.0])
    assert "from `scratch` (of good) and `good` (of bad)." in study_text(list(table.values()), about)
