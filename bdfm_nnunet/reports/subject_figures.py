"""Figures of predictions for subjects; each function takes what was scored and returns a matplotlib figure.

`models` maps the name of a model to its units, the one that is scored first; every model has the same units.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bdfm_nnunet.evaluation.class_measures import auc, average_precision
from bdfm_nnunet.evaluation.subject_curves import (
    at_risk_at,
    calibration_of,
    class_scores,
    precision_recall_curve,
    risk_groups,
    roc_curve,
    survival_curve,
)
from bdfm_nnunet.evaluation.subject_units import ScoredUnits
from bdfm_nnunet.reports.figures import COLOURS
from bdfm_nnunet.targets import TargetType

Models = Mapping[str, ScoredUnits]
_GREY = "#808080"
_SMALL = 8


def figures_of(models: Models, *, resamples: int = 1000, seed: int = 0) -> dict[str, Figure]:
    """Return the figures of a target's type by the ending of their file names; none without anything to draw.

    Args:
        models: name of a model -> what is scored.
        resamples: of the intervals in the calibration curve.
        seed: of the resampling.
    """
    units = next(iter(models.values()))
    kind = units.column.type
    if not len(units):
        return {}
    if kind is TargetType.CONTINUOUS:
        return {"predicted": predicted_figure(models)}
    if kind is TargetType.SURVIVAL:
        return {"survival": survival_figure(units)}
    if not class_scores(units):
        return {}
    return {
        "roc": roc_figure(models),
        "precision_recall": precision_recall_figure(models),
        "calibration": calibration_figure(models, resamples=resamples, seed=seed),
    }


def _square(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def _curves(models: Models) -> list[tuple[str, str, Any, Any]]:
    """Return label, colour, which units have the class, and their scores, for each model and class."""
    found = [
        (model, name, there, p) for model, units in models.items() for name, (there, p) in class_scores(units).items()
    ]
    classes = {name for _, name, _, _ in found}
    labelled = []
    for number, (model, name, there, p) in enumerate(found):
        parts = [model] if len(models) > 1 else []
        parts += [f"{name} against rest"] if len(classes) > 1 else []
        labelled.append((", ".join(parts), COLOURS[number % len(COLOURS)], there, p))
    return labelled


def _title(models: Models, what: str) -> str:
    units = next(iter(models.values()))
    counts = np.bincount(units.classes, minlength=len(units.column.classes))
    told = ", ".join(f"{name}: {count}" for name, count in zip(units.column.classes, counts))
    return f"{units.column.name}: {what} ({told})"


def roc_figure(models: Models) -> Figure:
    """Draw the ROC curves: of the positive class, or of each of several against the rest."""
    figure, axes = _square(_title(models, "ROC"), "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=_GREY, ls="--", lw=1, label="chance")
    for label, colour, there, p in _curves(models):
        area = auc(there, p, np.ones((1, len(p))))[0]
        axes.plot(*roc_curve(there, p), color=colour, lw=1.8, label=f"{label} AUC {area:.3f}".strip())
    axes.legend(fontsize=_SMALL, loc="lower right")
    return figure


def precision_recall_figure(models: Models) -> Figure:
    """Draw the curves of precision over recall as steps, with the share of positive cases."""
    figure, axes = _square(_title(models, "precision and recall"), "recall", "precision")
    shares = set()
    for label, colour, there, p in _curves(models):
        recall, precision = precision_recall_curve(there, p)
        score = average_precision(there, p, np.ones((1, len(p))))[0]
        steps = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
        axes.step(*steps, where="pre", color=colour, lw=1.8, label=f"{label} AP {score:.3f}".strip())
        shares.add(float(there.mean()))
    for number, share in enumerate(sorted(shares)):
        axes.axhline(share, color=_GREY, ls="--", lw=1, label="chance" if number == 0 else None)
    axes.legend(fontsize=_SMALL, loc="lower left")
    return figure


def calibration_figure(models: Models, *, resamples: int = 1000, seed: int = 0) -> Figure:
    """Draw observed frequency over predicted probability, with intervals over patients and the cases in each bin."""
    figure = Figure(figsize=(4.8, 5.8), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=_GREY, ls="--", lw=1, label="perfect")
    labels = iter(_curves(models))
    for units in models.values():
        for curve in calibration_of(units, resamples=resamples, seed=seed).values():
            label, colour, _, p = next(labels)
            x, y = ([each[name] for each in curve] for name in ("probability", "frequency"))
            bounds = [each["interval"] or [each["frequency"]] * 2 for each in curve]
            errors = np.abs(np.array(bounds).T - np.array(y))
            shown = label or units.column.classes[-1]
            axes.errorbar(x, y, yerr=errors, color=colour, marker="o", ms=4, lw=1.5, capsize=3, label=shown)
            below.hist(p, bins=np.linspace(0, 1, 11), histtype="step", color=colour, lw=1.5)
    axes.set(ylabel="observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(_title(models, "calibration"), fontsize=10)
    below.set(xlabel="predicted probability", ylabel="cases")
    axes.legend(fontsize=_SMALL, loc="upper left")
    for each in (axes, below):
        each.grid(alpha=0.3)
    return figure


def survival_figure(units: ScoredUnits) -> Figure:
    """Draw Kaplan-Meier curves of units of low and high predicted risk, with the numbers at risk below."""
    groups = risk_groups(units)
    figure = Figure(figsize=(6.2, 4.6 + 0.2 * len(groups)), layout="constrained")
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1 + len(groups)))
    for colour, (name, rows) in zip(COLOURS, groups.items()):
        _draw_survival(axes, units.taken(rows), name, colour)
    events = int(units.truth[:, 1].sum())
    axes.set(ylabel="share without event", ylim=(-0.02, 1.02), xlim=(0, None))
    axes.set_title(
        f"{units.column.name}: Kaplan-Meier by predicted risk ({len(units)} cases, {events} events)", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=_SMALL)
    _draw_at_risk(axes, table, units)
    return figure


def _draw_survival(axes: Any, units: ScoredUnits, name: str, colour: str) -> None:
    curve = survival_curve(units)
    events = int(units.truth[:, 1].sum())
    label = f"{name} ({len(units)} cases, {events} events)"
    axes.step(curve["time"], curve["share"], where="post", color=colour, lw=1.8, label=label)
    axes.fill_between(curve["time"], curve["low"], curve["high"], step="post", color=colour, alpha=0.15, lw=0)
    at = np.searchsorted(curve["time"], curve["censored"], side="right") - 1
    axes.plot(curve["censored"], curve["share"][at], "|", color=colour, ms=6)


def _draw_at_risk(axes: Any, table: Any, units: ScoredUnits) -> None:
    """Write the numbers at risk under the ticks of the time."""
    groups = risk_groups(units)
    latest = float(units.truth[:, 0].max())
    ticks = np.array([tick for tick in axes.get_xticks() if 0 <= tick <= latest])
    table.set(ylim=(len(groups) - 0.5, -1.2), yticks=range(len(groups)), yticklabels=list(groups), xticks=ticks)
    table.text(0, -0.9, "at risk", fontsize=_SMALL, va="center")
    for line, (rows, colour) in enumerate(zip(groups.values(), COLOURS)):
        for tick, count in zip(ticks, at_risk_at(units.taken(rows), ticks)):
            table.text(tick, line, str(count), fontsize=_SMALL, ha="center", va="center", color=colour)
    table.tick_params(labelsize=_SMALL, length=0, axis="y", pad=14)
    unit = f" ({units.column.unit})" if units.column.unit else ""
    table.set_xlabel(f"time{unit}")
    for side in ("top", "right", "left"):
        table.spines[side].set_visible(False)


def predicted_figure(models: Models) -> Figure:
    """Draw predicted over true values, with the line on which both are equal."""
    units = next(iter(models.values()))
    everything = np.concatenate([units.truth[:, 0], *(each.values for each in models.values())])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.05 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(ends, ends, color=_GREY, ls="--", lw=1, label="predicted = true")
    for colour, (name, each) in zip(COLOURS, models.items()):
        label = name if len(models) > 1 else None
        axes.plot(each.truth[:, 0], each.values, "o", color=colour, ms=4, alpha=0.6, mew=0, label=label)
    unit = f" ({units.column.unit})" if units.column.unit else ""
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"true{unit}", ylabel=f"predicted{unit}")
    axes.set_title(f"{units.column.name}: predicted and true ({len(units)} cases)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=_SMALL, loc="upper left")
    return figure
