"""The table of a study: what is measured of each arm with each label fraction, and the paired difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.evaluation.score_summary import Summary
from bdfm_nnunet.reports.study_measures import DICE, Row, StudyMeasure


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One arm with one label fraction.

    Attributes:
        arm: its name.
        fraction: percent of the training cases.
        cases: number of these cases, the mean over the seeds.
        score: what is measured, over test cases and seeds.
        baseline: arm that it is compared with.
        difference: from the baseline, by pairs of the same case and seed; None for the baseline itself.
        regions: the difference region by region.
        seeds: that are finished.
        patients: that are tested.
        hours: device hours of a seed's search and fine-tuning.
        pretraining_hours: device hours of its pre-training, the whole of it.
        measure: what is measured.
    """

    arm: str
    fraction: float
    cases: float
    score: Summary
    baseline: str
    difference: Summary | None
    regions: Mapping[str, Summary]
    seeds: int
    patients: int
    hours: float
    pretraining_hours: float
    measure: StudyMeasure = DICE

    @property
    def per_hour(self) -> float:
        """The score for each device hour of search, fine-tuning and pre-training."""
        hours = self.hours + self.pretraining_hours
        return self.score.mean / hours if hours else float("nan")

    @property
    def gain(self) -> tuple[float, float, float]:
        """The difference and its interval, above zero where the arm is better."""
        assert self.difference is not None
        mean, low, high = (getattr(self.difference, name) for name in ("mean", "low", "high"))
        return (-mean, -high, -low) if self.measure.smaller_is_better else (mean, low, high)

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain types; the score under the key of its measure."""
        names = ("arm", "fraction", "cases", "baseline", "seeds", "patients", "hours", "pretraining_hours")
        key = self.measure.key
        return {
            **{name: getattr(self, name) for name in names},
            **self.measure.about_entry,
            key: self.score.as_dict(),
            "difference": None if self.difference is None else self.difference.as_dict(),
            **({f"{key}_per_hour": self.per_hour} if self.measure.per_hour else {}),
            "regions": {name: each.as_dict() for name, each in self.regions.items()},
        }


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What a report tells beside the scores.

    Attributes:
        title: heading.
        baselines: arm -> the arm that it is compared with; of a baseline itself its own name.
        setup: sentences on cases, steps and search.
        warnings: sentences on what limits the comparison.
        costs: (arm, fraction) -> mean device hours of a seed, and of its pre-training.
        missing: tasks that are not finished.
        chosen: (arm, fraction) -> the settings that were chosen, seed by seed.
    """

    title: str
    baselines: Mapping[str, str]
    setup: Sequence[str]
    warnings: Sequence[str]
    costs: Mapping[tuple[str, float], tuple[float, float]]
    missing: int = 0
    chosen: Mapping[tuple[str, float], str]


def entries(rows: Sequence[Row], facts: StudyFacts, measure: StudyMeasure = DICE) -> list[Entry]:
    """Return the table of a study, fraction by fraction in the order of the rows.

    Args:
        rows: one for each arm, fraction, seed, test case and region or target, with its "patient" and "train_cases",
            and what the measure needs: "dice", or "truth" and "predicted".
        facts: of the study.
        measure: what is measured.
    """
    found, measured = [], measure.rows_of(rows)
    for fraction in dict.fromkeys(row["fraction"] for row in measured):
        here = [row for row in measured if row["fraction"] == fraction]
        for arm in dict.fromkeys(row["arm"] for row in here):
            own = [row for row in here if row["arm"] == arm]
            base = [row for row in here if row["arm"] == facts.baselines[arm] != arm]
            found.append(_entry(measure, own, base, facts.baselines[arm], facts.costs[arm, fraction]))
    return found


def _entry(
    measure: StudyMeasure, own: Sequence[Row], base: Sequence[Row], baseline: str, costs: tuple[float, float]
) -> Entry:
    parts = measure.parts(own, base) if base else {}
    by_region = {name: _difference(measure, *rows) for name, rows in parts.items()}
    counts = {row["seed"]: row["train_cases"] for row in own}
    return Entry(
        arm=own[0]["arm"],
        fraction=own[0]["fraction"],
        cases=round(sum(counts.values()) / len(counts), 1),
        score=measure.value(own),
        baseline=baseline,
        difference=_difference(measure, own, base) if base else None,
        regions={name: summary for name, summary in by_region.items() if summary is not None},
        seeds=len(counts),
        patients=len({row["patient"] for row in own}),
        hours=costs[0],
        pretraining_hours=costs[1],
        measure=measure,
    )


def _difference(measure: StudyMeasure, own: Sequence[Row], base: Sequence[Row]) -> Summary | None:
    """Return the difference of two arms over the seeds that both have; None where there are none."""
    seeds = {row["seed"] for row in own} & {row["seed"] for row in base}
    own, base = ([row for row in rows if row["seed"] in seeds] for rows in (own, base))
    if not seeds:
        return None
    assert {row["case"] for row in own} == {row["case"] for row in base}, "arms are tested on the same cases"
    return measure.difference(own, base)
