"""HTML in which every text is escaped unless it was made here."""

import html
from typing import Any

from bdfm_nnunet.safe_names import printable

_WITHOUT_END = {"img", "input", "link", "meta"}
_WITHOUT_CONTENT = {"line", "circle", "polyline"}


class Markup(str):
    """Text that is HTML already; any other text is escaped where it meets one of these.

    Example:
        >>> tag("p", "<script>", tag("b", "bold"))
        '<p>&lt;script&gt;<b>bold</b></p>'
    """

    __slots__ = ()


def escaped(content: object) -> Markup:
    """Return some content as HTML: markup as it is, everything else as text that a browser only shows."""
    return content if isinstance(content, Markup) else Markup(html.escape(printable(str(content))))


def joined(*children: object) -> Markup:
    """Return children after one another, without those that are None.

    >>> joined("a < b", None, tag("p", 3))
    'a &lt; b<p>3</p>'
    """
    return Markup("".join(escaped(child) for child in children if child is not None))


def tag(name: str, /, *children: object, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        children: texts, numbers and markup; None is left out.
        attributes: by name, with underscores for hyphens and one after a word of Python (`class_`, `aria_label`); True
            for one without a value, None and False for none.

    Example:
        >>> tag("button", "Look", class_="small", data_case='"', disabled=True, hidden=None)
        '<button class="small" data-case="&quot;" disabled>Look</button>'
    """
    given = {key: value for key, value in attributes.items() if value is not None and value is not False}
    named = {key.rstrip("_").replace("_", "-"): value for key, value in given.items()}
    written = "".join(f" {key}" if value is True else f' {key}="{escaped(value)}"' for key, value in named.items())
    if name in _WITHOUT_END:
        return Markup(f"<{name}{written}>")
    if name in _WITHOUT_CONTENT:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def table(head: list[object], rows: list[list[object]], *, caption: str, **attributes: Any) -> Markup:
    """Return a table that scrolls by itself where it is wider than the window; the first cell of a row names it.

    Args:
        head: names of the columns.
        rows: cells.
        caption: what the table holds.
        attributes: of the table.
    """
    lines = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    columns = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))) if head else None
    inner = tag("table", tag("caption", caption), columns, tag("tbody", *lines), **attributes)
    return scrolling(inner, caption)


def scrolling(content: Markup, label: str) -> Markup:
    """Return an area that scrolls by itself where its content is wider than the window, with the keyboard too."""
    return tag("div", content, class_="wide", tabindex="0", role="region", aria_label=label)
