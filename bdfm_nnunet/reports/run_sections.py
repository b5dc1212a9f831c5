"""Sections of a page on one run: settings, curves, what it was trained on and under which licence, cost."""

import base64
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_regular
from bdfm_nnunet.reports.markup import Markup, joined, table, tag
from bdfm_nnunet.reports.page_charts import line_chart
from bdfm_nnunet.reports.reported_runs import ReportedRun, RunPart

_DEEPEST, _MOST_ENTRIES, _LONGEST, _LARGEST_PICTURE = 12, 300, 300, 4 << 20
_EXPOSURE = ("Data set", "Trainer", "Cases to learn from", "Cases to choose", "Releases, licences, overlaps", "Note")
_PNG = b"\x89PNG\r\n\x1a\n"
_OWN_CURVES = ("lrs", "seconds")
_TITLES = {"lrs": "Learning rate", "seconds": "Seconds an epoch"}


def run_section(run: ReportedRun, number: int) -> Markup:
    """Return the section of a run.

    Args:
        run: the run.
        number: its place on the page.
    """
    first = run.parts[0].result
    about = f"{first.kind}{f' by {first.trainer}' if first.trainer else ''}"
    return tag(
        "section",
        tag("h2", run.name, id=f"run-{number}"),
        tag("p", f"A result of kind {about}, from ", _paths(run), "."),
        *(joined(_curves(part), *(_picture(part, path) for path in part.pictures)) for part in run.parts),
        *map(_entries, run.parts),
        _cost(run),
        _exposure(run),
        *(_settings(part) for part in run.parts),
        class_="run",
        aria_labelledby=f"run-{number}",
    )


def _paths(run: ReportedRun) -> Markup:
    first, last = run.parts[0].path, run.parts[-1].path
    ends = (tag("code", first),) if first == last else (tag("code", first), " to ", tag("code", last))
    return joined(*ends)


def _with_part(title: str, part: RunPart) -> str:
    return f"{title}, {part.name}" if part.name else title


# ---------------------------------------------------------------------------------------------------------- curves


def _curves(part: RunPart) -> Markup | None:
    curves = part.result.curves
    if not curves:
        return None
    groups: dict[str, dict[str, Any]] = {}
    for name, values in curves.items():
        groups.setdefault(_group_of(name), {})[name] = values
    charts = [line_chart(series, title=title) for title, series in groups.items()]
    return joined(tag("h3", _with_part("Curves", part)), tag("div", *charts, class_="charts")) if any(charts) else None


def _group_of(name: str) -> str:
    if name in _OWN_CURVES:
        return _TITLES[name]
    words = name.lower().split("_")
    if "loss" in words or "losses" in words:
        return "Losses"
    if "dice" in words:
        return "Dice of validation crops"
    return name.removesuffix("_mean_fill").removeprefix("train_").removeprefix("val_")


def _picture(part: RunPart, path: Path) -> Markup:
    """Return a picture of reconstructions, or why it is left out."""
    title = _with_part("Reconstruction", part)
    try:
        content = read_regular(path) if path.stat().st_size <= _LARGEST_PICTURE else b""
    except (InputError, OSError):
        content = b""
    if not content.startswith(_PNG):
        return joined(tag("h3", title), tag("p", f"{path.name} is no PNG file of at most 4 MiB, so it is left out."))
    told = f"{path.parent.name}, {path.stem}: images, what was hidden of them, and what was rebuilt"
    shown = tag("img", src=data_uri(content, "image/png"), alt=told, class_="reconstruction")
    return joined(tag("h3", title), tag("figure", shown, tag("figcaption", path.name)))


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _entries(part: RunPart) -> Markup | None:
    """Return the table of a study or comparison: a row per arm and fraction, means with their intervals in one cell."""
    entries = part.result.extra.get("table")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries) or not entries:
        return None
    told = [dict(_cells(entry)) for entry in entries[:_MOST_ENTRIES]]
    head = list(dict.fromkeys(name for row in told for name in row))
    caption = _with_part("Table of the study", part)
    return joined(
        tag("h3", caption), table([*head], [[row.get(name, "-") for name in head] for row in told], caption=caption)
    )


def _cells(entry: Any, name: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entry.items():
        place = f"{name} {key}".strip()
        if isinstance(value, Mapping) and {"mean", "low", "high"} <= set(value):
            numbers = [value[each] for each in ("mean", "low", "high")]
            known = all(isinstance(number, (int, float)) for number in numbers)
            yield place, "{:.3f} [{:.3f}, {:.3f}]".format(*numbers) if known else "-"
        elif isinstance(value, Mapping) and not name:
            yield from _cells(value, place)
        else:
            yield place, _value_text(value)


# ------------------------------------------------------------------------------------------------------------ cost


def _cost(run: ReportedRun) -> Markup | None:
    costs = [(part.name or "all", part.result.cost) for part in run.parts if part.result.cost]
    if not costs:
        return None
    rows: list[list[object]] = [
        [name, duration(cost.seconds), *map(_count, (cost.epochs, cost.steps, cost.parameters))] for name, cost in costs
    ]
    head: list[object] = ["Part", "Time", "Epochs", "Steps", "Trainable numbers"]
    return joined(tag("h3", "Cost"), table(head, rows, caption=f"Cost of {run.name}"))


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it.

    >>> duration(42.4), duration(600), duration(9000), duration(None)
    ('42 s', '10.0 min', '2.50 h', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.2f} h"


# -------------------------------------------------------------------------------------------------------- exposure


def _exposure(run: ReportedRun) -> Markup | None:
    """Return the trainings behind the weights, with the licences of their data."""
    for part in run.parts:
        exposure = part.result.exposure
        if exposure and isinstance(trainings := exposure.get("runs"), list):
            rows = [_training(each) for each in trainings if isinstance(each, Mapping)]
            note = exposure.get("note")
            return joined(
                tag("h3", "Exposure and licences"),
                tag("p", "The trainings behind these weights, the oldest first. The licences of data may bind you."),
                table(list(_EXPOSURE), rows, caption=f"What {run.name} has seen") if rows else None,
                tag("p", f"{note}.") if note else None,
            )
    return None


def _training(entry: Mapping[str, Any]) -> list[object]:
    releases = _table(entry.get("releases"))
    named = [_release(name, each) for name, each in releases.items()]
    named += [f"{name}: all of it" for name in _table(entry.get("whole")) if name not in releases]
    notes = [str(entry[name]) for name in ("note", "ancestors") if entry.get(name)]
    return [
        entry.get("dataset") or "not recorded",
        entry.get("trainer") or "-",
        *(entry.get(part, "not recorded") for part in ("train", "val")),
        joined(*(tag("div", each) for each in named)) if named else "not recorded",
        "; ".join(notes) or "-",
    ]


def _release(name: str, entry: Any) -> str:
    entry = _table(entry)
    shared = entry.get("overlaps")
    overlaps = ", ".join(map(str, shared)) if isinstance(shared, list) else ""
    shares = f"; shares scans with {overlaps}" if overlaps else ""
    return f"{name}: licence {entry.get('licence') or 'not stated'}{shares}"


def _table(content: Any) -> Mapping[str, Any]:
    """Return a table of a result, whose inner entries nobody has checked; empty where it is none."""
    return content if isinstance(content, Mapping) else {}


# -------------------------------------------------------------------------------------------------------- settings


def _settings(part: RunPart) -> Markup | None:
    """Return all settings, versions and other entries, folded up."""
    others = {name: value for name, value in part.result.extra.items() if name != "table"}
    groups = {"Settings": part.result.settings, "Versions": part.result.versions, "Other entries": others}
    shown = []
    for title, content in groups.items():
        if not content:
            continue
        entries = list(_flat(content))
        rows: list[list[object]] = [[name, value] for name, value in entries[:_MOST_ENTRIES]]
        left = len(entries) - len(rows)
        more = tag("p", f"{left} more entries are left out; {part.path.name} holds them.") if left else None
        full = _with_part(title, part)
        shown.append(tag("details", tag("summary", full), table([], rows, caption=full), more))
    return joined(*shown)


def _flat(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the names, with dots, and values of nested tables; lists of numbers and texts stay in one line."""
    nested = isinstance(content, list) and any(isinstance(item, (Mapping, list)) for item in content)
    if depth == _DEEPEST and (nested or isinstance(content, Mapping)):
        yield name, "…"
    elif isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key), depth + 1)
    elif nested:
        for at, item in enumerate(content):
            yield from _flat(item, f"{name}[{at}]", depth + 1)
    else:
        yield name, _value_text(content)


def _value_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    text = ", ".join(map(_value_text, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def shown_path(path: Path | None) -> str:
    """Return a folder as the page names it."""
    return "not found" if path is None else str(path)
