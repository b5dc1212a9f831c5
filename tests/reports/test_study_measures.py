"""What a study measures of targets: against slow loops over patients and seeds, and in words."""

from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.reports.study_entries import Entry, StudyFacts, entries
from bdfm_nnunet.reports.study_measures import TargetMeasure, measures_of_targets
from bdfm_nnunet.reports.study_report import findings, study_text, verdict, write_report
from bdfm_nnunet.targets import TargetColumn, TargetType

IDH = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
SITE = TargetColumn("site", TargetType.MULTICLASS, ("A", "B", "C"))
AGE = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
DEATH = TargetColumn("death", TargetType.SURVIVAL, unit="days")
FACTS: dict[str, Any] = {
    "title": "T", "baselines": {"scratch": "scratch", "good": "scratch"}, "setup": [], "warnings": [], "chosen": {},
    "costs": {("scratch", 20.0): (0.5, 0.0), ("good", 20.0): (0.5, 1.0)},
}  # fmt: skip


def rows(target: str, truth: Any, predicted: dict[str, Any], *, seeds: int = 3) -> list[dict[str, Any]]:
    """Rows of arms whose predictions are (seeds, cases); two cases are of one patient."""
    return [
        {"arm": arm, "fraction": 20.0, "seed": seed, "case": f"case_{i:02d}", "patient": f"p{max(i, 1):02d}",
         "train_cases": 8, "target": target, "truth": truth[i], "predicted": float(values[seed][i])}
        for arm, values in predicted.items() for seed in range(seeds) for i in range(len(truth))
    ]  # fmt: skip


def binary(seeds: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray], list[dict[str, Any]]]:
    rng = np.random.default_rng(1)
    truth = (np.arange(24) % 3 == 0).astype(float)
    noise = rng.normal(size=(seeds, 24))
    found = {name: 1 / (1 + np.exp(-gain * truth - noise)) for name, gain in (("scratch", 0.3), ("good", 3.0))}
    return truth, found, rows("idh", truth.tolist(), found, seeds=seeds)


def slow_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    pairs = np.sign(np.subtract.outer(scores[truth == 1], scores[truth == 0])) / 2 + 0.5
    return float(pairs.mean()) if pairs.size else float("nan")


def slow_interval(truth: np.ndarray, predicted: list[np.ndarray], resamples: int = 1500) -> Any:
    """Draw seeds and patients one by one; of two arms, the difference."""
    rng = np.random.default_rng(3)
    patients = [[0, 1], *([i] for i in range(2, len(truth)))]
    found = []
    for _ in range(resamples):
        cases = [case for patient in rng.integers(len(patients), size=len(patients)) for case in patients[patient]]
        seeds = rng.integers(len(predicted[0]), size=len(predicted[0]))
        means = [np.mean([slow_auc(truth[cases], values[seed][cases]) for seed in seeds]) for values in predicted]
        found.append(means[-1] - (means[0] if len(means) > 1 else 0.0))
    return np.nanquantile(found, [0.025, 0.975])


def test_auc_and_its_paired_difference_are_those_of_slow_loops() -> None:
    truth, predicted, found = binary()
    first, second = entries(found, StudyFacts(**FACTS), TargetMeasure(IDH, "auc"))
    for entry in (first, second):
        each = [slow_auc(truth, values) for values in predicted[entry.arm]]
        assert entry.score.mean == pytest.approx(np.mean(each)) and entry.score.cases == 3
    assert second.difference is not None and first.difference is None
    assert second.difference.mean == pytest.approx(second.score.mean - first.score.mean)
    wanted = slow_interval(truth, [predicted["scratch"], predicted["good"]])
    assert (second.difference.low, second.difference.high) == pytest.approx(wanted, abs=0.025)
    wanted = slow_interval(truth, [predicted["scratch"]])
    assert (first.score.low, first.score.high) == pytest.approx(wanted, abs=0.025)
    assert "good is better than scratch by 0." in verdict(second) and "AUC of idh [0." in verdict(second)


def test_seeds_that_hold_out_other_patients_are_scored_together() -> None:
    """Four turns that test a quarter each are one repetition of all cases, as out-of-fold tables are."""
    truth, predicted, found = binary(seeds=4)
    some = [row for row in found if int(row["case"][5:]) % 4 == row["seed"]]
    entry = entries(some, StudyFacts(**FACTS), TargetMeasure(IDH, "auc"))[0]
    joined = np.array([predicted["scratch"][i % 4][i] for i in range(24)])
    assert entry.score.mean == pytest.approx(slow_auc(truth, joined)) and (entry.seeds, entry.score.cases) == (4, 1)
    fewer = entries([row for row in some if row["seed"] < 3], StudyFacts(**FACTS), TargetMeasure(IDH, "auc"))[0]
    there = np.arange(24) % 4 < 3
    assert fewer.score.mean == pytest.approx(slow_auc(truth[there], joined[there]))


def test_a_smaller_error_is_a_gain() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(100, 900, 30)
    predicted = {name: truth + rng.normal(0, spread, (3, 30)) for name, spread in (("scratch", 90), ("good", 20))}
    found = rows("age", truth.tolist(), predicted)
    r2, mae = (entries(found, StudyFacts(**FACTS), measure)[1] for measure in measures_of_targets([AGE]))
    assert mae.score.mean == pytest.approx(np.abs(predicted["good"] - truth).mean())
    each = [1 - ((values - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() for values in predicted["good"]]
    assert r2.score.mean == pytest.approx(np.mean(each))
    assert mae.difference is not None and mae.difference.high < 0 < mae.gain[1]
    assert "good is better than scratch by" in verdict(mae) and "MAE of age (years)" in verdict(mae)
    assert "good is better than scratch by" in verdict(r2)
    told = findings([r2, mae], StudyFacts(**FACTS))
    assert len(told) == 2 and "R² of age" in told[0], "the first measure of a target speaks"
    swapped = [{**row, "arm": {"good": "scratch", "scratch": "good"}[row["arm"]]} for row in found]
    worse = entries(sorted(swapped, key=lambda row: row["arm"] == "good"), StudyFacts(**FACTS), mae.measure)[1]
    assert "good is worse than scratch by" in verdict(worse)


def test_several_classes_and_survival() -> None:
    rng = np.random.default_rng(4)
    number = np.arange(18) % 3
    chances = rng.dirichlet([1, 1, 1], 18) * 0.5 + 0.5 * np.eye(3)[number]
    found = rows("site", [SITE.classes[i] for i in number], {"scratch": np.zeros((1, 18))}, seeds=1)
    for i, row in enumerate(found):
        row["predicted"] = SITE.classes[int(chances[i].argmax())]
        row["probabilities"] = dict(zip(SITE.classes, chances[i].tolist()))
    (entry,) = entries(found, StudyFacts(**FACTS), TargetMeasure(SITE, "auc"))
    wanted = np.mean([slow_auc((number == k).astype(float), chances[:, k]) for k in range(3)])
    assert entry.score.mean == pytest.approx(wanted)
    time, event = rng.uniform(10, 900, 18), (np.arange(18) % 4 > 0).astype(float)
    risk = -time + rng.normal(0, 200, 18)
    found = rows("death", np.stack([time, event], 1).tolist(), {"scratch": risk[None]}, seeds=1)
    (entry,) = entries(found, StudyFacts(**FACTS), measures_of_targets([DEATH])[0])
    pairs = [risk[i] > risk[j] for i in range(18) for j in range(18) if event[i] and time[i] < time[j]]
    assert entry.score.mean == pytest.approx(np.mean(pairs)) and "C-index of death" in entry.measure.name


def test_one_class_among_the_test_cases_is_said() -> None:
    _, predicted, _ = binary()
    found = rows("idh", [1.0] * 24, predicted)
    table: list[Entry] = entries(found, StudyFacts(**FACTS), TargetMeasure(IDH, "auc"))
    page = study_text(table, StudyFacts(**FACTS))
    assert "| not defined | not defined |" in page and "not defined often enough" in page and "nan" not in page


def test_page_and_figures_of_two_targets(tmp_path: Any) -> None:
    _, _, found = binary()
    ages = np.linspace(30, 80, 24)
    found += rows("age", ages.tolist(), {name: np.tile(ages[::-1], (3, 1)) for name in ("scratch", "good")})
    table = write_report(tmp_path, found, StudyFacts(**FACTS), measures_of_targets([IDH, AGE]))
    page = (tmp_path / "study.md").read_text()
    for piece in ("## AUC of idh", "## R² of age", "## MAE of age (years)", "![AUC of idh](figures/idh_auc.png)"):
        assert piece in page
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["age_r2.png", "idh_auc.png"]
    told = [entry.as_dict() for entry in table]
    assert {(each["measure"], each["target"]) for each in told} == {("auc", "idh"), ("r2", "age"), ("mae", "age")}
    assert all(each[each["measure"]]["mean"] is not None and "an hour" not in page for each in told)
