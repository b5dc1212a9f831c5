"""What a study found: one table of arms and label fractions, words and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.crossed_bootstrap import CROSSED_INTERVAL, summarise_crossed
from bdfm_nnunet.evaluation.score_summary import Summary
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.reports.figures import COLOURS, save_figure

Row = Mapping[str, Any]
_FEW_SEEDS, _MANY = 3, 5


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One arm with one label fraction.

    Attributes:
        arm: its name.
        fraction: percent of the training cases.
        cases: number of these cases, the mean over the seeds.
        dice: mean over test cases, regions and seeds.
        baseline: arm that it is compared with.
        difference: from the baseline, by pairs of the same case and seed; None for the baseline itself.
        regions: the difference region by region.
        seeds: that are finished.
        patients: that are tested.
        hours: device hours of a seed's search and fine-tuning.
        pretraining_hours: device hours of its pre-training, the whole of it.
    """

    arm: str
    fraction: float
    cases: float
    dice: Summary
    baseline: str
    difference: Summary | None
    regions: Mapping[str, Summary]
    seeds: int
    patients: int
    hours: float
    pretraining_hours: float

    @property
    def dice_per_hour(self) -> float:
        """Mean Dice for each device hour of search, fine-tuning and pre-training."""
        hours = self.hours + self.pretraining_hours
        return self.dice.mean / hours if hours else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain types."""
        regions = {name: summary.as_dict() for name, summary in self.regions.items()}
        difference = None if self.difference is None else self.difference.as_dict()
        return {**self.__dict__, "dice": self.dice.as_dict(), "difference": difference, "regions": regions,
                "dice_per_hour": self.dice_per_hour}  # fmt: skip


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


def entries(rows: Sequence[Row], facts: StudyFacts) -> list[Entry]:
    """Return the table of a study, fraction by fraction in the order of the rows.

    Args:
        rows: one for each arm, fraction, seed, test case and region, with its "dice", "patient" and "train_cases".
        facts: of the study.
    """
    found = []
    for fraction in dict.fromkeys(row["fraction"] for row in rows):
        here = [row for row in rows if row["fraction"] == fraction]
        for arm in dict.fromkeys(row["arm"] for row in here):
            own = [row for row in here if row["arm"] == arm]
            base = [row for row in here if row["arm"] == facts.baselines[arm] != arm]
            found.append(_entry(own, base, facts.baselines[arm], facts.costs[arm, fraction]))
    return found


def _entry(own: Sequence[Row], base: Sequence[Row], baseline: str, costs: tuple[float, float]) -> Entry:
    dice, _ = _table(own)
    regions = dict.fromkeys(row["region"] for row in own) if base else {}
    by_region = {
        name: _difference([row for row in own if row["region"] == name], [row for row in base if row["region"] == name])
        for name in regions
    }
    counts = {row["seed"]: row["train_cases"] for row in own}
    return Entry(
        arm=own[0]["arm"],
        fraction=own[0]["fraction"],
        cases=round(sum(counts.values()) / len(counts), 1),
        dice=summarise_crossed(dice, patients=_patients(own)),
        baseline=baseline,
        difference=_difference(own, base) if base else None,
        regions={name: summary for name, summary in by_region.items() if summary is not None},
        seeds=len(counts),
        patients=len({row["patient"] for row in own}),
        hours=costs[0],
        pretraining_hours=costs[1],
    )


def _difference(own: Sequence[Row], base: Sequence[Row]) -> Summary | None:
    """Return the difference of two arms over the seeds that both have; None where there are none."""
    seeds = {row["seed"] for row in own} & {row["seed"] for row in base}
    own, base = ([row for row in rows if row["seed"] in seeds] for rows in (own, base))
    if not seeds:
        return None
    (first, names), (second, others) = _table(own), _table(base)
    assert names == others, "the arms of a study are tested on the same cases"
    return summarise_crossed(first - second, patients=_patients(own))


def _table(rows: Sequence[Row]) -> tuple[NDArray[np.float64], list[str]]:
    """Return the Dice of each repetition and case, the mean over the regions that have one, and the cases.

    Where each seed holds out other patients, a case's first repetition is the first seed that tests it: the seeds of a
    rotation differ in their patients already, and drawing them too would count that twice.
    """
    cases = sorted({row["case"] for row in rows})
    seeds = {case: sorted({row["seed"] for row in rows if row["case"] == case}) for case in cases}
    sums, counts = np.zeros((2, max(map(len, seeds.values())), len(cases)))
    for row in rows:
        if row["dice"] is not None:
            place = seeds[row["case"]].index(row["seed"]), cases.index(row["case"])
            sums[place] += row["dice"]
            counts[place] += 1
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0), cases


def _patients(rows: Sequence[Row]) -> list[str]:
    patients = {row["case"]: row["patient"] for row in rows}
    return [patients[case] for case in sorted(patients)]


# ------------------------------------------------------------------------------------------------------- in words


def verdict(entry: Entry) -> str:
    """Return what a difference means, in plain words.

    Example:
        >>> summary = Summary(-0.012, -0.02, -0.004, -0.01, 80)
        >>> entry = Entry(arm="bdfm", fraction=5.0, cases=7, dice=summary, baseline="scratch", difference=summary,
        ...               regions={}, seeds=3, patients=40, hours=0.1, pretraining_hours=0.2)
        >>> verdict(entry)
        'With 5 % of the labels (7 cases), bdfm is worse than scratch by 0.012 Dice [0.004, 0.020].'
    """
    assert entry.difference is not None
    baseline = entry.baseline
    mean, low, high = (getattr(entry.difference, name) for name in ("mean", "low", "high"))
    labels = f"With {entry.fraction:g} % of the labels ({entry.cases:g} case{'s' * (entry.cases != 1)})"
    if entry.patients == 1:
        return (
            f"{labels}, {entry.arm} differs from {baseline} by {mean:+.3f} Dice in the one patient that tests so far."
        )
    if low > 0:
        return f"{labels}, {entry.arm} is better than {baseline} by {mean:.3f} Dice [{low:.3f}, {high:.3f}]."
    if high < 0:
        return f"{labels}, {entry.arm} is worse than {baseline} by {-mean:.3f} Dice [{-high:.3f}, {-low:.3f}]."
    return (
        f"{labels}, {entry.arm} and {baseline} cannot be told apart: {mean:+.3f} Dice, and the interval "
        f"[{low:+.3f}, {high:+.3f}] spans zero."
    )


def findings(table: Sequence[Entry], facts: StudyFacts) -> list[str]:
    """Return what was found, in sentences."""
    compared = [entry for entry in table if entry.difference is not None]
    told = [verdict(entry) for entry in compared]
    for arm in dict.fromkeys(entry.arm for entry in compared):
        own = [entry for entry in compared if entry.arm == arm]
        changes = [entry.difference for entry in own if entry.patients > 1]
        better = sum(change.low > 0 for change in changes if change)
        worse = sum(change.high < 0 for change in changes if change)
        told.append(
            f"In all, {arm} is ahead of {facts.baselines[arm]} with {better}, behind with {worse} and not told apart "
            f"from it with {len(own) - better - worse} of {len(own)} label fractions."
        )
    if table and max(entry.seeds for entry in table) < _FEW_SEEDS:
        told.append("With fewer than three seeds, the intervals hardly know how much two trainings alike differ.")
    if len(compared) >= _MANY:
        told.append(f"Of {len(compared)} intervals, about one in twenty leaves out zero by chance alone.")
    return told


def study_text(table: Sequence[Entry], facts: StudyFacts, *, figure: str = "") -> str:
    """Return the page study.md, in Markdown."""
    missing = [f"**{facts.missing} tasks are not finished: this is not the whole table.**", ""] if facts.missing else []
    warnings = ["## What limits this", "", *(f"- {each}" for each in facts.warnings), ""] if facts.warnings else []
    return "\n".join(
        [
            f"# {facts.title}",
            "",
            *missing,
            "## What was found",
            "",
            *(f"- {each}" for each in findings(table, facts)),
            "",
            *warnings,
            "## Mean Dice",
            "",
            f"Over test cases, regions and seeds; brackets: {CROSSED_INTERVAL}. The difference is by pairs "
            f"of the same case and seed, from {_named(facts.baselines)}.",
            "",
            *_lines(table),
            "",
            *_region_lines(table),
            *([f"![Mean Dice]({figure})", ""] if figure else []),
            "## How",
            "",
            *(f"- {each}" for each in facts.setup),
            "",
            "Settings chosen on the validation cases, seed by seed:",
            "",
            *(f"- {arm}, {fraction:g} %: {told}" for (arm, fraction), told in facts.chosen.items()),
            "",
        ]
    )


def _named(baselines: Mapping[str, str]) -> str:
    """Return which arms are compared with which."""
    compared: dict[str, list[str]] = {}
    for arm, baseline in baselines.items():
        compared.setdefault(baseline, []).extend([arm] if arm != baseline else [])
    if len(compared) == 1:
        return f"`{next(iter(compared))}`"
    return " and ".join(f"`{baseline}` (of {', '.join(arms)})" for baseline, arms in compared.items() if arms)


def _lines(table: Sequence[Entry]) -> list[str]:
    head = (
        "| labels | arm | seeds | Dice | difference | device hours, search and training | pre-training | Dice an hour |"
    )
    lines = [head, "|" + " --- |" * 8]
    for entry in table:
        hours = f"{entry.hours:.3g} | {entry.pretraining_hours:.3g} | {entry.dice_per_hour:.3g}"
        labels = f"{entry.fraction:g} % ({entry.cases:g})"
        difference = "-" if entry.difference is None else _interval(entry.difference, sign="+")
        lines.append(f"| {labels} | {entry.arm} | {entry.seeds} | {_interval(entry.dice)} | {difference} | {hours} |")
    return lines


def _region_lines(table: Sequence[Entry]) -> list[str]:
    names = list(dict.fromkeys(name for entry in table for name in entry.regions))
    if len(names) < 2:
        return []
    lines = [
        "Differences region by region:",
        "",
        f"| labels | arm | {' | '.join(names)} |",
        "|" + " --- |" * (2 + len(names)),
    ]
    for entry in table:
        if entry.regions:
            cells = " | ".join(_interval(entry.regions[name], sign="+") for name in names)
            lines.append(f"| {entry.fraction:g} % | {entry.arm} | {cells} |")
    return [*lines, ""]


def _interval(summary: Summary, sign: str = "") -> str:
    return f"{summary.mean:{sign}.3f} [{summary.low:{sign}.3f}, {summary.high:{sign}.3f}]"


# ------------------------------------------------------------------------------------------------------ a picture


def study_figure(table: Sequence[Entry], *, title: str = "") -> Figure:
    """Mean Dice over the label fractions, a line for each arm, and the differences from the baselines beside it."""
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = {fraction: i for i, fraction in enumerate(sorted({entry.fraction for entry in table}))}
    arms = list(dict.fromkeys(entry.arm for entry in table))
    for number, arm in enumerate(arms):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 4, "capsize": 3, "lw": 1.4}
        shift = 0.06 * (number - (len(arms) - 1) / 2)
        own = sorted((entry for entry in table if entry.arm == arm), key=lambda entry: entry.fraction)
        _draw(left, [(places[e.fraction] + shift, e.dice) for e in own], label=arm, **style)
        _draw(right, [(places[e.fraction] + shift, e.difference) for e in own if e.difference], label=arm, **style)
    right.axhline(0, color="black", lw=0.8)
    baselines = " or ".join(dict.fromkeys(entry.baseline for entry in table))
    for axes, ylabel in ((left, "Dice"), (right, f"Dice minus that of {baselines}")):
        axes.set_xticks(range(len(places)), [f"{fraction:g} %" for fraction in places])
        axes.set_xlabel("training cases whose labels are used")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw(axes: Any, points: Sequence[tuple[float, Summary]], **style: Any) -> None:
    if not points:
        return
    x, summaries = zip(*points)
    means = [summary.mean for summary in summaries]
    bounds = [[s.mean - s.low for s in summaries], [s.high - s.mean for s in summaries]]
    axes.errorbar(x, means, yerr=np.maximum(bounds, 0), **style)


def write_report(folder: Path, rows: Sequence[Row], facts: StudyFacts) -> list[Entry]:
    """Write study.md and figures/dice.png of a study, and return its table.

    Args:
        folder: of the study.
        rows: as in `entries`, at least one.
        facts: of the study.
    """
    table = entries(rows, facts)
    save_figure(study_figure(table, title=facts.title), folder / "figures" / "dice.png")
    with write_atomically(folder / "study.md") as temporary:
        temporary.write_text(study_text(table, facts, figure="figures/dice.png"), encoding="utf-8")
    return table
