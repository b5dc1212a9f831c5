"""Charts of a page as SVG: they take their colours from the page, and say in words what they show."""

import math
from collections.abc import Callable, Mapping, Sequence

from bdfm_nnunet.reports.markup import Markup, joined, tag

Numbers = Sequence[float | None]
_Scale = Callable[[float], float]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 220, 58, 30, 10
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")
_COLOURS = 6
_TICKS = 5
_MOST_POINTS = 400
_Row = tuple[list[float], float, float, float]


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers inside a range, about as many as `_TICKS`."""
    raw = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _texts(ticks: Sequence[float]) -> list[str]:
    """Return ticks as text, with as many digits as tell them apart."""
    digits = next((n for n in range(4, 12) if len({f"{tick:.{n}g}" for tick in ticks}) == len(ticks)), 12)
    return [f"{tick:.{digits}g}" for tick in ticks]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or abs(low) * 0.1 or 1.0
    return low - margin, high + margin


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _known(values: Numbers) -> list[tuple[int, float]]:
    """Return place and value of the numbers that exist, thinned out where there are more than anyone sees."""
    found = [(at, float(value)) for at, value in enumerate(values) if value is not None and math.isfinite(value)]
    step = -(-len(found) // _MOST_POINTS) if found else 1
    return found[::step] + (found[-1:] if step > 1 and (len(found) - 1) % step else [])


def line_chart(series: Mapping[str, Numbers], *, title: str) -> Markup:
    """Draw curves over the epochs.

    Args:
        series: name -> one value an epoch, None where it does not exist.
        title: what the values are.

    Returns:
        A figure with its legend; an empty text where no value exists.
    """
    curves = {name: known for name, values in series.items() if (known := _known(values))}
    if not curves:
        return Markup("")
    low, high = _range([value for known in curves.values() for _, value in known])
    last = max(max(at for at, _ in known) for known in curves.values())
    across = _scale(0, max(last, 1), _LEFT, _WIDTH - 10)
    up = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    drawn = [_curve(known, number, across, up) for number, known in enumerate(curves.values())]
    heights, ticks = _ticks(low, high), sorted({round(tick) for tick in _ticks(0, max(last, 1))})
    axes = joined(
        *(_horizontal(up(tick), text) for tick, text in zip(heights, _texts(heights))),
        *(tag("text", tick, x=across(tick), y=_HEIGHT - 12, class_="x") for tick in ticks if tick <= last),
        tag("text", "epoch", x=_WIDTH - 10, y=_HEIGHT - 1, class_="end"),
    )
    told = "; ".join(f"{name} from {known[0][1]:.4g} to {known[-1][1]:.4g}" for name, known in curves.items())
    picture = _picture(joined(axes, *drawn), _HEIGHT, f"{title} over {last + 1} epochs: {told}")
    legend = (tag("li", _key(number), " ", name) for number, name in enumerate(curves))
    return tag("figure", tag("figcaption", title), picture, tag("ul", *legend, class_="legend"))


def _picture(content: Markup, height: float, told: str) -> Markup:
    return tag("svg", content, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=told, class_="chart")


def _curve(known: Sequence[tuple[int, float]], number: int, across: _Scale, up: _Scale) -> Markup:
    colour, dash = f"line c{number % _COLOURS}", _DASHES[number // _COLOURS % len(_DASHES)]
    if len(known) == 1:
        return tag("circle", cx=across(known[0][0]), cy=up(known[0][1]), r=3, class_=f"dot c{number % _COLOURS}")
    points = " ".join(f"{across(at)},{up(value)}" for at, value in known)
    return tag("polyline", points=points, class_=colour, stroke_dasharray=dash)


def _key(number: int) -> Markup:
    """Return the sample of a line in a legend."""
    dash = _DASHES[number // _COLOURS % len(_DASHES)]
    line = tag("line", x1=0, y1=5, x2=24, y2=5, class_=f"line c{number % _COLOURS}", stroke_dasharray=dash)
    return tag("svg", line, viewBox="0 0 24 10", class_="key", aria_hidden="true")


def _horizontal(y: float, text: str) -> Markup:
    line = tag("line", x1=_LEFT, y1=y, x2=_WIDTH - 10, y2=y, class_="grid")
    return joined(line, tag("text", text, x=_LEFT - 6, y=y + 3.5, class_="end"))


def difference_chart(rows: Mapping[str, tuple[Numbers, float, float, float]], *, title: str) -> Markup:
    """Draw differences: a row each with a dot per case, the mean and its interval, and the line of no difference.

    Args:
        rows: name -> differences of the cases (None where one does not exist), mean, low and high.
        title: what the differences are of.
    """
    known: dict[str, _Row] = {
        name: ([v for _, v in _known(values)], mean, low, high)
        for name, (values, mean, low, high) in rows.items()
        if math.isfinite(mean) and math.isfinite(low) and math.isfinite(high)
    }
    if not known:
        return Markup("")
    low, high = _range([0.0, *(v for values, *rest in known.values() for v in (*values, *rest))])
    left, height = 150, 34 * len(known) + _BOTTOM
    across = _scale(low, high, left, _WIDTH - 14)
    places = _ticks(low, high)
    ticks = [tag("text", t, x=across(at), y=height - 12, class_="x") for at, t in zip(places, _texts(places))]
    zero = tag("line", x1=across(0), y1=2, x2=across(0), y2=height - _BOTTOM, class_="zero")
    lines = [_difference(name, row, 17 + 34 * number, left, across) for number, (name, row) in enumerate(known.items())]
    told = "; ".join(f"{name} {m:+.3f}, interval {a:+.3f} to {b:+.3f}" for name, (_, m, a, b) in known.items())
    picture = _picture(joined(zero, *ticks, *lines), height, f"{title}: {told}")
    return tag("figure", tag("figcaption", title), picture)


def _difference(name: str, row: _Row, y: float, left: float, across: _Scale) -> Markup:
    values, mean, low, high = row
    spread = (y - 5.5, y, y + 5.5)
    dots = [tag("circle", cx=across(v), cy=spread[at % 3], r=2.2, class_="case") for at, v in enumerate(values)]
    interval = tag("line", x1=across(low), y1=y, x2=across(high), y2=y, class_="interval")
    shown = name if len(name) <= 24 else f"{name[:23]}…"
    return joined(tag("text", shown, x=left - 8, y=y + 4, class_="end"), *dots, interval,
                  tag("circle", cx=across(mean), cy=y, r=4.5, class_="mean"))  # fmt: skip
