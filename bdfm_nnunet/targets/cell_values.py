"""Cells of tables that people and spreadsheets wrote: missing values, numbers with units and commas, dates.

A fault is a `CellFault`, whose text is the middle of a sentence; who knows the file and the row makes the sentence.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bdfm_nnunet.table_files import NOTHING

MISSING = NOTHING | {
    "#n/a", "#na", "<na>", "n.a.", "nat", ".", "?", "--", "missing", "not available", "not applicable", "not known",
    "not reported", "not done", "unk",
}  # fmt: skip
"""What stands for a missing value, in small letters."""
_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d[\d.,' ]*|[.,]\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[^\W\d_][\w./^²³µ%-]*)?")
_BOUND = re.compile(r"[<>≤≥]=?\s*\d.*|\d+\s*\+")
_MONTH = "jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|okt|oct|nov|de[cz]"
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./-]\d{1,2}[./-](\d{4}|\d{2})|\d{4}/\d{1,2}/\d{1,2}|"
    rf"\d{{1,2}}[-. ]+({_MONTH})[a-z]*([-. ]+\d{{2,4}})?|({_MONTH})[a-z]*[-. ]+\d{{2,4}}",
    re.IGNORECASE,
)
_UNITS = {
    **dict.fromkeys(("y", "yr", "yrs", "year", "years", "yo", "y.o.", "a", "jahre"), "years"),
    **dict.fromkeys(("d", "day", "days", "tage"), "days"),
    **dict.fromkeys(("mo", "month", "months", "monate"), "months"),
    **dict.fromkeys(("w", "wk", "week", "weeks"), "weeks"),
}


class CellFault(ValueError):
    """A cell that cannot be used, in words that follow the cell: "is a date, expected a number"."""


def is_missing(cell: str, further: Collection[str] = ()) -> bool:
    """Return whether a cell stands for a missing value.

    Args:
        cell: the cell.
        further: spellings, with `*` for anything, that count as missing too; numbers are compared by value.

    Example:
        >>> is_missing("#N/A"), is_missing("999.0", ["999"]), is_missing("0")
        (True, True, False)
    """
    folded = " ".join(cell.split()).casefold()
    return folded in MISSING or any(same(cell, spelling) for spelling in further)


def same(cell: str, spelling: str) -> bool:
    """Return whether a cell is a spelling: in any case, `*` stands for anything, and numbers count by their value.

    Example:
        >>> same("IDH1 p.R132H", "idh1*"), same("1.0", "1"), same("10", "1")
        (True, True, False)
    """
    cell, spelling = plain_class(cell).casefold(), plain_class(spelling).casefold()
    parts = [re.escape(part) for part in spelling.split("*")]
    return cell == spelling or (len(parts) > 1 and re.fullmatch(".*".join(parts), cell) is not None)


def plain_class(cell: str) -> str:
    """Return a class as it is written without a spreadsheet's marks: single spaces, and `1` for `1.0`.

    Example:
        >>> plain_class("1.0"), plain_class("0,50"), plain_class("IDH  mutant")
        ('1', '0.5', 'IDH mutant')
    """
    if re.fullmatch(r"[+-]?\d+[.,]\d+", cell):
        number = cell.replace(",", ".").rstrip("0")
        return number.removesuffix(".")
    return " ".join(cell.split())


def is_date(cell: str) -> bool:
    """Return whether a cell is a date, or what a spreadsheet makes of `1-2` or of an id.

    Example:
        >>> is_date("2021-03-05 00:00:00"), is_date("05.03.2021"), is_date("Jan-05"), is_date("1.5")
        (True, True, True, False)
    """
    return _DATE.fullmatch(cell.strip()) is not None


def known_unit(unit: str) -> str:
    """Return the usual name of a unit.

    >>> known_unit("yrs"), known_unit("mm3")
    ('years', 'mm3')
    """
    return _UNITS.get(unit.casefold(), unit)


@dataclass(frozen=True)
class NumberForm:
    """How the numbers of a column are written.

    Attributes:
        comma: a comma is the decimal mark.

    Example:
        >>> NumberForm.of(["1,5", "1.234,75"]).read("1.234,75"), NumberForm.of(["1.5"]).read("55 y")
        ((1234.75, ''), (55.0, 'years'))
    """

    comma: bool = False
    point: bool = False

    @classmethod
    def of(cls, cells: Iterable[str]) -> "NumberForm":
        """Return the form of a column that holds these cells; a number alone does not always tell."""
        comma = point = False
        for cell in cells:
            match = _NUMBER.fullmatch(cell)
            text = match["number"] if match else ""
            last = max(text.rfind(","), text.rfind("."))
            if last < 0:
                continue
            both = "," in text and "." in text
            single = text.count(text[last]) == 1
            tells = single and (both or len(re.sub(r"[eE].*", "", text)[last + 1 :].strip()) != 3)
            comma |= tells and text[last] == ","
            point |= (tells or (single and not both)) and text[last] == "."
        return cls(comma, point)

    def read(self, cell: str) -> tuple[float, str]:
        """Return the number in a cell and its unit.

        Raises:
            CellFault: it is a date, a bound, an error of a spreadsheet, no number, or one of two.
        """
        match = _NUMBER.fullmatch(cell.strip())
        if is_date(cell):
            raise CellFault("is a date, expected a number")
        if match is None or cell.strip().casefold() in ("inf", "nan"):
            raise CellFault(_what(cell))
        return self._value(match["number"], cell), known_unit(match["unit"] or "")

    def _value(self, text: str, cell: str) -> float:
        text = text.strip().replace(" ", "").replace("'", "")
        mantissa = re.sub(r"[eE].*", "", text)
        if not self.comma and not self.point and mantissa.count(",") == 1 and re.search(r"\d,\d{3}$", mantissa):
            raise CellFault("may be a number with a decimal comma or one with thousands")
        if self.comma and self.point and ("," in text) != ("." in text):
            raise CellFault("is written with another decimal mark than other rows")
        mark, thousands = (",", ".") if self.comma else (".", ",")
        whole = mantissa.partition(mark)[0]
        if thousands in mantissa and not re.fullmatch(rf"[+-]?\d{{1,3}}(\{thousands}\d{{3}})+", whole):
            raise CellFault("is no number in the way that other rows are written")
        try:
            value = float(text.replace(thousands, "").replace(mark, "."))
        except ValueError:
            raise CellFault("is no number") from None
        if math.isinf(value):
            raise CellFault("is beyond all numbers")
        return value


def _what(cell: str) -> str:
    if cell.startswith("#"):
        return "is an error of a spreadsheet, expected a number"
    if _BOUND.fullmatch(cell.strip()):
        return "is a bound, expected a number"
    return "is no number"
