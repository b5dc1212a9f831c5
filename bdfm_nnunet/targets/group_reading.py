"""Groupings of cases, such as sex, site or bands of age: for scores per group and for sites that are kept out."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets.case_matching import CaseRows
from bdfm_nnunet.targets.cell_values import CellFault, NumberForm, is_missing, plain_class
from bdfm_nnunet.targets.column_requests import GroupRequest
from bdfm_nnunet.targets.target_tables import TableRow, TargetTable

MOST_VALUES = 10
"""With more numbers than these, a measure is cut into bands."""
BANDS = 3


def read_group(
    table: TargetTable, found: CaseRows, request: GroupRequest, *, missing: Sequence[str] = ()
) -> tuple[dict[str, str], str]:
    """Return case to value, and a sentence where bands were chosen here.

    Raises:
        InputError: there is no column, a number cannot be read, or a case has two values.
    """
    column = table.column(request.source or request.name)
    values = {case: _value(case, rows, column, table, missing) for case, rows in found.of_case.items()}
    known = {case: value for case, value in values.items() if value}
    if not known:
        raise InputError(f"{table.path}: {column} has no value for any case: name another column with --group")
    first: dict[str, str] = {}
    known = {case: first.setdefault(value.casefold(), value) for case, value in known.items()}
    numbers = _numbers(known, table, column, needed=bool(request.bands))
    if not numbers or not (request.bands or _is_measure(f"{request.name} {column}", set(numbers.values()))):
        return known, ""
    limits = request.bands or _equal_bands(list(numbers.values()))
    note = f"{request.name}: cut at {' and '.join(f'{each:g}' for each in limits)}; --bands names other limits"
    return {case: band_of(number, limits) for case, number in numbers.items()}, "" if request.bands else note


def _is_measure(names: str, values: set[float]) -> bool:
    """Return whether numbers are a measure that is cut into bands, and no codes of sites or scanners."""
    fractions = any(not value.is_integer() for value in values)
    return len(values) > MOST_VALUES and (fractions or re.search(r"\bage\b", names.casefold()) is not None)


def band_of(number: float, limits: Sequence[float]) -> str:
    """Return the name of the band of a number.

    >>> band_of(39.5, [40, 60]), band_of(40, [40, 60]), band_of(75, [40, 60])
    ('below 40', '40 to 60', '60 and above')
    """
    place = int(np.searchsorted(limits, number, side="right"))
    if place == 0:
        return f"below {limits[0]:g}"
    if place == len(limits):
        return f"{limits[-1]:g} and above"
    return f"{limits[place - 1]:g} to {limits[place]:g}"


def _value(case: str, rows: Sequence[TableRow], column: str, table: TargetTable, missing: Sequence[str]) -> str:
    told = [(row, plain_class(row.cells[column])) for row in rows if not is_missing(row.cells[column], missing)]
    for row, value in told[1:]:
        if value.casefold() != told[0][1].casefold():
            raise InputError(
                f"{table.path}: {column} of {case} is {told[0][1]!r} in row {told[0][0].number} and {value!r} in row "
                f"{row.number}: remove one of the rows"
            )
    return told[0][1] if told else ""


def _numbers(known: Mapping[str, str], table: TargetTable, column: str, *, needed: bool) -> dict[str, float]:
    """Return case to number; nothing where a value is none, unless numbers are needed."""
    form, found = NumberForm.of(known.values()), {}
    for case, value in known.items():
        try:
            found[case] = form.read(value)[0]
        except CellFault as fault:
            if needed:
                raise InputError(
                    f"{table.path}: {column} {value!r} of {case} {fault}: leave out --bands, or write a number"
                ) from None
            return {}
    return found


def _equal_bands(numbers: Sequence[float]) -> tuple[float, ...]:
    """Return limits between bands that hold about as many cases each, rounded."""
    limits = np.quantile(numbers, np.linspace(0, 1, BANDS + 1)[1:-1])
    spread = float(np.ptp(numbers)) or 1.0
    digits = max(0, -int(np.floor(np.log10(spread / 10))))
    return tuple(sorted({round(float(limit), digits) for limit in limits}))
