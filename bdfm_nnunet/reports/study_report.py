"""What a study found: tables of arms and label fractions, words and figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bdfm_nnunet.evaluation.score_summary import Summary
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.reports.figures import save_figure
from bdfm_nnunet.reports.study_entries import Entry, StudyFacts, entries
from bdfm_nnunet.reports.study_figure import study_figure
from bdfm_nnunet.reports.study_measures import DICE, Row, StudyMeasure

_FEW_SEEDS, _MANY = 3, 5


def verdict(entry: Entry) -> str:
    """Return what a difference means, in plain words.

    Example:
        >>> summary = Summary(-0.012, -0.02, -0.004, -0.01, 80)
        >>> entry = Entry(arm="bdfm", fraction=5.0, cases=7, score=summary, baseline="scratch", difference=summary,
        ...               regions={}, seeds=3, patients=40, hours=0.1, pretraining_hours=0.2)
        >>> verdict(entry)
        'With 5 % of the labels (7 cases), bdfm is worse than scratch by 0.012 Dice [0.004, 0.020].'
    """
    assert entry.difference is not None
    baseline, form = entry.baseline, entry.measure.form
    name, (mean, low, high) = entry.measure.name, entry.gain
    labels = f"With {entry.fraction:g} % of the labels ({entry.cases:g} case{'s' * (entry.cases != 1)})"
    plain = f"{entry.difference.mean:+{form}} {name}"
    if entry.patients == 1:
        return f"{labels}, {entry.arm} differs from {baseline} by {plain} in the one patient that tests so far."
    if float(f"{min(abs(low), abs(high)):{form}}") == 0:  # a bound that is not zero must not read as zero
        form = ".2g"
    if low > 0:
        return f"{labels}, {entry.arm} is better than {baseline} by {mean:{form}} {name} [{low:{form}}, {high:{form}}]."
    if high < 0:
        bounds = f"[{-high:{form}}, {-low:{form}}]"
        return f"{labels}, {entry.arm} is worse than {baseline} by {-mean:{form}} {name} {bounds}."
    apart = f"{labels}, {entry.arm} and {baseline} cannot be told apart"
    if math.isnan(low):
        return f"{apart}: {name} is not defined often enough on these test cases."
    bounds = f"[{entry.difference.low:+{form}}, {entry.difference.high:+{form}}]"
    return f"{apart}: {plain}, and the interval {bounds} spans zero."


def findings(table: Sequence[Entry], facts: StudyFacts) -> list[str]:
    """Return what was found, in sentences."""
    compared = [entry for entry in table if entry.difference is not None and entry.measure.leads]
    told = _nothing_learned(table)
    for measure in dict.fromkeys(entry.measure for entry in compared):
        told += _findings_of([entry for entry in compared if entry.measure is measure], facts)
    if table and max(entry.seeds for entry in table) < _FEW_SEEDS:
        told.append("With fewer than three seeds, the intervals hardly know how much two trainings alike differ.")
    if len(compared) >= _MANY:
        told.append(f"Of {len(compared)} intervals, about one in twenty leaves out zero by chance alone.")
    return told


def _nothing_learned(table: Sequence[Entry]) -> list[str]:
    """Return a sentence for each label fraction with which no arm is above a model that has learned nothing."""
    told = []
    for measure, fraction in dict.fromkeys((entry.measure, entry.fraction) for entry in table if entry.measure.leads):
        arms = [entry for entry in table if entry.measure is measure and entry.fraction == fraction]
        if measure.nothing is None or any(not entry.score.low <= measure.nothing for entry in arms):
            continue
        best = max(arms, key=lambda entry: entry.score.mean)
        told.append(
            f"With {fraction:g} % of the labels no arm can be told from one that has learned nothing (the best, "
            f"{best.arm}, has {best.score.mean:{measure.form}} {measure.name}), so differences mean little: give more "
            "steps, or other rates."
        )
    return told


def _findings_of(compared: Sequence[Entry], facts: StudyFacts) -> list[str]:
    told = [verdict(entry) for entry in compared]
    for arm in dict.fromkeys(entry.arm for entry in compared):
        own = [entry for entry in compared if entry.arm == arm]
        gains = [entry.gain for entry in own if entry.patients > 1]
        better, worse = sum(low > 0 for _, low, _ in gains), sum(high < 0 for _, _, high in gains)
        told.append(
            f"In all, {arm} is ahead of {facts.baselines[arm]} with {better}, behind with {worse} and not told apart "
            f"from it with {len(own) - better - worse} of {len(own)} label fractions."
        )
    return told


def study_text(table: Sequence[Entry], facts: StudyFacts, *, figures: Mapping[StudyMeasure, str] | None = None) -> str:
    """Return the page study.md, in Markdown.

    Args:
        table: entries of all measures.
        facts: of the study.
        figures: measure -> path of its figure.
    """
    missing = [f"**{facts.missing} tasks are not finished: this is not the whole table.**", ""] if facts.missing else []
    warnings = ["## What limits this", "", *(f"- {each}" for each in facts.warnings), ""] if facts.warnings else []
    sections = [
        line
        for measure in dict.fromkeys(entry.measure for entry in table)
        for line in _section([each for each in table if each.measure is measure], facts, (figures or {}).get(measure))
    ]
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
            *sections,
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


def _section(table: Sequence[Entry], facts: StudyFacts, figure: str | None) -> list[str]:
    """Return heading, table and figure of one measure."""
    measure = table[0].measure
    return [
        f"## {measure.title}",
        "",
        f"{measure.about} The difference is by pairs of the same case and seed, from {_named(facts.baselines)}.",
        "",
        *_lines(table),
        "",
        *_region_lines(table),
        *([f"![{measure.title}]({figure})", ""] if figure else []),
    ]


def _named(baselines: Mapping[str, str]) -> str:
    """Return which arms are compared with which."""
    compared: dict[str, list[str]] = {}
    for arm, baseline in baselines.items():
        compared.setdefault(baseline, []).extend([arm] if arm != baseline else [])
    if len(compared) == 1:
        return f"`{next(iter(compared))}`"
    return " and ".join(f"`{baseline}` (of {', '.join(arms)})" for baseline, arms in compared.items() if arms)


def _lines(table: Sequence[Entry]) -> list[str]:
    measure = table[0].measure
    head = ["labels", "arm", "seeds", measure.name, "difference", "device hours, search and training", "pre-training"]
    head += [f"{measure.name} an hour"] if measure.per_hour else []
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for entry in table:
        score = _interval(entry.score, measure.form)
        difference = "-" if entry.difference is None else _interval(entry.difference, f"+{measure.form}")
        cells = [f"{entry.fraction:g} % ({entry.cases:g})", entry.arm, f"{entry.seeds}", score, difference]
        cells += [f"{entry.hours:.3g}", f"{entry.pretraining_hours:.3g}"]
        cells += [f"{entry.per_hour:.3g}"] if measure.per_hour else []
        lines.append(f"| {' | '.join(cells)} |")
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
            cells = " | ".join(_interval(entry.regions[name], "+.3f") for name in names)
            lines.append(f"| {entry.fraction:g} % | {entry.arm} | {cells} |")
    return [*lines, ""]


def _interval(summary: Summary, form: str) -> str:
    if math.isnan(summary.mean):
        return "not defined"
    if math.isnan(summary.low):
        return f"{summary.mean:{form}} [not defined]"
    return f"{summary.mean:{form}} [{summary.low:{form}}, {summary.high:{form}}]"


def write_report(
    folder: Path, rows: Sequence[Row], facts: StudyFacts, measures: Sequence[StudyMeasure] = (DICE,)
) -> list[Entry]:
    """Write study.md and the figures of a study, and return its table.

    Args:
        folder: of the study.
        rows: as in `entries`, at least one.
        facts: of the study.
        measures: that the table is of.
    """
    tables = {measure: entries(rows, facts, measure) for measure in measures}
    figures = {measure: f"figures/{measure.file}.png" for measure in measures if measure.leads}
    for measure, path in figures.items():
        save_figure(study_figure(tables[measure], title=facts.title), folder / path)
    table = [entry for each in tables.values() for entry in each]
    with write_atomically(folder / "study.md") as temporary:
        temporary.write_text(study_text(table, facts, figures=figures), encoding="utf-8")
    return table
