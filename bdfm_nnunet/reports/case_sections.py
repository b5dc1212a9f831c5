"""Sections of a page on cases: means and differences of runs, the table of cases, the viewer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdfm_nnunet.evaluation.score_tables import interval_text
from bdfm_nnunet.reports.case_comparison import PAIRED, Comparison, more_is_worse
from bdfm_nnunet.reports.case_pictures import DISAGREEMENT, DISAGREEMENT_COLOURS, colour_of
from bdfm_nnunet.reports.markup import Markup, joined, scrolling, table, tag
from bdfm_nnunet.reports.page_charts import difference_chart

_MOST_DIGITS = 8
_FEWEST = 6
"""Of 5 pairs without a difference, all have one sign in 1 of 16 draws, which is above 5 %."""
Picture = tuple[str, str]
"""Address and description."""


@dataclass(frozen=True)
class ShownCases:
    """What is shown of each case.

    Attributes:
        rows: cases of the table, worst first.
        pictures: case -> its pictures, the reference and then a picture a run; a sentence where there are none.
        viewed: cases of the viewer, each with "case", "told", and "volumes" or "address".
        notes: sentences on what was left out.
        labels: label value -> its name.
    """

    rows: Sequence[str]
    pictures: Mapping[str, Sequence[Picture] | str] = field(default_factory=dict)
    viewed: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    labels: Mapping[int, str] = field(default_factory=dict)


def _digits(measure: str) -> int:
    return 1 if measure.endswith("_mm") else 3


def _number(value: float, measure: str) -> str:
    return f"{value:.{_digits(measure)}f}" if math.isfinite(value) else "-"


# ---------------------------------------------------------------------------------------------------------- scores


def score_section(found: Comparison, results: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Return means with intervals of every run, and the differences from the first run.

    Args:
        found: the cases side by side.
        results: run -> its scores.
    """
    first = results[found.runs[0]]
    rows: list[list[object]] = [
        [f"{region}, {measure}", *(_interval(results[run]["summary"][region][measure], measure) for run in found.runs)]
        for region in found.regions
        for measure in found.measures
    ]
    definition = first.get("definition")
    return tag(
        "section",
        tag("h2", "Scores", id="scores"),
        tag("p", f"Metric version {first['metrics']}. {definition or ''} ",
            f"Means over all scored cases of a run with intervals ({first.get('interval') or 'as recorded'})."),
        table(["Score", *found.runs], rows, caption="Mean scores by region"),
        *(_difference(found, run) for run in found.runs[1:]),
        aria_labelledby="scores",
    )  # fmt: skip


def _interval(summary: Mapping[str, Any], measure: str) -> str:
    return "-" if None in (summary["low"], summary["high"]) else interval_text(summary, _digits(measure))


def _difference(found: Comparison, run: str) -> Markup:
    base = found.runs[0]
    title = f"{run} minus {base}, case by case"
    changes = {region: found.change(run, region) for region in found.regions}
    sign = -1 if more_is_worse(found.measure) else 1
    rows: list[list[object]] = []
    for region, change in changes.items():
        each = [sign * value for value in found.changes(run, region) if math.isfinite(value)]
        better, worse = sum(value > 0 for value in each), sum(value < 0 for value in each)
        counts = f"{better} better, {worse} worse, {len(each) - better - worse} equal"
        rows.append([region, _signed(change, found.measure), counts, _verdict(change, sign)])
    chart = difference_chart(
        {region: (found.changes(run, region), c.mean, c.low, c.high) for region, c in changes.items()},
        title=f"{found.measure}, {run} minus {base}: a dot per case, the mean and its interval",
    )
    return joined(
        tag("h3", title),
        tag("p", f"{len(found.cases)} cases that all runs have; {PAIRED}. The interval covers the spread over cases, "
            "not that over training runs.", " Right of the line is more." if chart else None),
        table(["Region", f"Difference in {found.measure}", "Cases", "In words"], rows, caption=title),
        chart or None,
    )  # fmt: skip


def _signed(change: Any, measure: str) -> str:
    if not math.isfinite(change.mean):
        return "not defined"
    digits, largest = _digits(measure), max(abs(change.low), abs(change.high))
    while largest and digits < _MOST_DIGITS and not round(largest, digits):
        digits += 1
    return f"{change.mean:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def _verdict(change: Any, sign: int) -> str:
    if math.isfinite(change.mean) and change.cases - change.undefined < _FEWEST:
        return f"too few cases to tell: of fewer than {_FEWEST}, even the same sign in all is no rare chance"
    if not math.isfinite(change.low) or change.low <= 0 <= change.high:
        return "no difference shown: the interval holds 0"
    return "better" if sign * change.mean > 0 else "worse"


# ----------------------------------------------------------------------------------------------------------- cases


def case_section(found: Comparison, shown: ShownCases) -> Markup:
    """Return the table of cases, worst first, with small pictures."""
    last = found.runs[-1]
    several = len(found.runs) > 1
    heads = [f"{region}, {run}" if several else region for region in found.regions for run in found.runs]
    heads += [f"{last} minus {found.runs[0]}"] if several else []
    order = "descending" if more_is_worse(found.measure) else "ascending"
    mean = f"Mean {found.measure}{f', {last}' if several else ''}"
    columns = [
        tag("th", tag("button", "Case"), scope="col", aria_sort="none"),
        *([tag("th", "Pictures", scope="col")] if shown.pictures else []),
        tag("th", tag("button", mean), scope="col", aria_sort=order),
        *(tag("th", tag("button", head), scope="col", aria_sort="none") for head in heads),
    ]
    places = {entry["case"]: number for number, entry in enumerate(shown.viewed)}
    rows = [_row(found, shown, case, places.get(case)) for case in shown.rows]
    caption = f"{len(shown.rows)} cases, worst first by mean {found.measure}; a heading sorts by its column"
    content = (tag("caption", caption), tag("thead", tag("tr", *columns)), tag("tbody", *rows))
    return tag(
        "section",
        tag("h2", "Cases", id="cases"),
        *(tag("p", note) for note in shown.notes),
        _legend(shown) if shown.pictures else None,
        tag("p", tag("label", "Find a case ", tag("input", type="search", id="find-case"))),
        scrolling(tag("table", *content, class_="cases"), "Table of cases"),
        aria_labelledby="cases",
    )


def _row(found: Comparison, shown: ShownCases, case: str, place: int | None) -> Markup:
    values = [found.mean(found.runs[-1], case)]
    values += [found.value(run, case, region) for region in found.regions for run in found.runs]
    if len(found.runs) > 1:
        values.append(values[0] - found.mean(found.runs[0], case))
    cells = [tag("td", _number(v, found.measure), data_value=v if math.isfinite(v) else None) for v in values]
    look = None if place is None else tag("button", "Look", data_view=place, aria_label=f"Look at {case} in the viewer")
    pictures = [tag("td", _pictures(case, shown.pictures.get(case, "")), class_="pictures")] if shown.pictures else []
    return tag("tr", tag("th", tag("span", case), " ", look, scope="row", data_value=case), *pictures, *cells)


def _pictures(case: str, pictures: Sequence[Picture] | str) -> Markup:
    if isinstance(pictures, str):
        return tag("span", f"No picture: {pictures}" if pictures else "")
    return joined(*(tag("img", src=src, alt=f"{case}, {told}", title=told, loading="lazy") for src, told in pictures))


def _legend(shown: ShownCases) -> Markup:
    """Return the meaning of the colours in pictures and viewer."""
    labels = [_swatch(colour_of(value), f"{value}: {name}") for value, name in sorted(shown.labels.items())]
    kinds = [_swatch(DISAGREEMENT_COLOURS[1], "in both with one label (pictures only)")]
    kinds += [_swatch(DISAGREEMENT_COLOURS[kind], told) for kind, told in DISAGREEMENT.items()]
    return joined(
        tag("p", "The first picture of a case is its reference, the others hold each run's prediction against it."),
        tag("ul", *labels, class_="legend", aria_label="Labels"),
        tag("ul", *kinds, class_="legend", aria_label="Agreement"),
    )


def _swatch(colour: str, text: str) -> Markup:
    return tag("li", tag("span", class_="swatch", style=f"background:{colour}", aria_hidden="true"), text)


# ---------------------------------------------------------------------------------------------------------- viewer

_KEYS = (
    "With the picture in focus, the arrow keys and Page Up and Page Down move the cross (arrows turn the 3-D view "
    "where it is alone), and 1 to 4 switch image, reference, prediction and disagreement. Dragging turns the 3-D view; "
    "the wheel changes the slice. The patient's left is on the right."
)
_OVERLAYS = {"image": True, "reference": True, "prediction": False, "disagreement": False}
_VIEWS = {"multi": "three planes and 3-D", **{plane: plane for plane in ("axial", "coronal", "sagittal")},
          "render": "3-D"}  # fmt: skip


def viewer_section(found: Comparison, shown: ShownCases, *, how: str | None) -> Markup:
    """Return the viewer of the worst and best cases.

    Args:
        found: the cases side by side.
        shown: with those of the viewer.
        how: how to get the viewer, where it is not part of the page.
    """
    title = tag("h2", "Viewer", id="viewer")
    if how:
        told = f"This page was written without its viewer, which is not installed: {how}, and write the page again."
        return tag("section", title, tag("p", told), aria_labelledby="viewer")
    cases = [tag("option", f"{entry['case']} ({entry['told']})", value=at) for at, entry in enumerate(shown.viewed)]
    runs = [tag("option", run, value=at, selected=run == found.runs[-1]) for at, run in enumerate(found.runs)]
    boxes = [
        tag("label", tag("input", type="checkbox", id=f"show-{name}", checked=on), f" {name}")
        for name, on in _OVERLAYS.items()
    ]
    controls = (
        tag("label", "Case ", tag("select", *cases, id="viewer-case")),
        tag("label", "Run ", tag("select", *runs, id="viewer-run"), hidden=len(runs) == 1),
        tag("label", "View ", tag("select", *(tag("option", t, value=v) for v, t in _VIEWS.items()), id="viewer-view")),
        tag("fieldset", tag("legend", "Shown"), *boxes),
        tag("label", "Strength of overlays ",
            tag("input", type="range", id="viewer-strength", min="0.1", max="1", step="0.1", value="0.6")),
    )  # fmt: skip
    canvas = tag("canvas", id="viewer-canvas", tabindex="0", role="img", aria_describedby="viewer-keys",
                 aria_label="Slices and 3-D view of the case")  # fmt: skip
    return tag(
        "section",
        title,
        tag("div", *controls, class_="controls"),
        tag("div", canvas, class_="viewer"),
        tag("p", id="viewer-status", role="status"),
        tag("p", _KEYS, id="viewer-keys"),
        _legend(shown),
        aria_labelledby="viewer",
    )


def as_script(content: object, name: str, kind: str = "application/json") -> Markup:
    """Return an element that holds data and runs nothing; no data can end it early.

    Args:
        content: plain data, or a text of base64.
        name: id of the element.
        kind: its type.
    """
    text = json.dumps(content).replace("<", "\\u003c")
    return Markup(f'<script type="{kind}" id="{name}">{text}</script>')
