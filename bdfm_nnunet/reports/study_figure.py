"""The picture of a study: a measure over label fractions, arm by arm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bdfm_nnunet.evaluation.score_summary import Summary
from bdfm_nnunet.reports.figures import COLOURS
from bdfm_nnunet.reports.study_entries import Entry


def study_figure(table: Sequence[Entry], *, title: str = "") -> Figure:
    """One measure over the label fractions, a line for each arm, and the differences from the baselines beside it."""
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = {fraction: i for i, fraction in enumerate(sorted({entry.fraction for entry in table}))}
    arms = list(dict.fromkeys(entry.arm for entry in table))
    for number, arm in enumerate(arms):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 4, "capsize": 3, "lw": 1.4}
        shift = 0.06 * (number - (len(arms) - 1) / 2)
        own = sorted((entry for entry in table if entry.arm == arm), key=lambda entry: entry.fraction)
        _draw(left, [(places[e.fraction] + shift, e.score) for e in own], label=arm, **style)
        _draw(right, [(places[e.fraction] + shift, e.difference) for e in own if e.difference], label=arm, **style)
    right.axhline(0, color="black", lw=0.8)
    baselines = " or ".join(dict.fromkeys(entry.baseline for entry in table))
    name = table[0].measure.name
    for axes, ylabel in ((left, name), (right, f"{name} minus that of {baselines}")):
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
