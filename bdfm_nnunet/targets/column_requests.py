"""What a user, or a known table, asks for: which column becomes which target, and how its classes are spelt."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import fault_of_name
from bdfm_nnunet.targets.target_types import TargetType

_TYPES = {kind.value: kind for kind in TargetType} | {"multiclass": TargetType.MULTICLASS}
CLIPS = "clips"
"""Column of a table of predictions with the number of clips of each run."""
_RESERVED = {"case", "patient", CLIPS}
SPREAD = " spread"
"""End of the column of a table of predictions with the spread of an ensemble."""


@dataclass(frozen=True)
class ClassSpelling:
    """A class and the cells that mean it.

    Attributes:
        name: name of the class.
        spellings: of its cells, in any case; `*` stands for anything.
    """

    name: str
    spellings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ColumnRequest:
    """A target that is to be read from a table.

    Attributes:
        name: name of the target.
        type: its kind; None: as the cells suggest.
        source: column of the values, or of the times of a survival; empty: the one called like the target.
        event: column of the events of a survival.
        times: further columns of times, read where the source says nothing (of patients who are alive).
        plus: column whose number is added, such as the years since the visit that the source is of.
        classes: in order; empty: as found.
        positive: class of a binary target that counts as positive; empty: as its name suggests.
        unit: unit; empty: as found in the cells.
        missing: spellings that count as missing.
        per_scan: scans of one patient may differ.
        optional: left out without a word where the table lacks the column.
    """

    name: str
    type: TargetType | None = None
    source: str = ""
    event: str = ""
    times: tuple[str, ...] = ()
    plus: str = ""
    classes: tuple[ClassSpelling, ...] = ()
    positive: str = ""
    unit: str = ""
    missing: tuple[str, ...] = ()
    per_scan: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupRequest:
    """A grouping of cases that is to be read from a table, for scores per group and sites kept out.

    Attributes:
        name: name of the grouping.
        source: its column; empty: the one called like the grouping.
        bands: limits between bands of a number.
        optional: left out without a word where the table lacks the column.
    """

    name: str
    source: str = ""
    bands: tuple[float, ...] = ()
    optional: bool = False


def column_request(text: str) -> ColumnRequest:
    """Return the request of `NAME`, `NAME:TYPE` or `NAME:TYPE=COLUMN`; for a survival `NAME:survival=TIME/EVENT`.

    Example:
        >>> column_request("os:survival=OS/1-dead 0-alive").source
        'OS/1-dead 0-alive'
        >>> column_request("IDH").type is None
        True

    Raises:
        InputError: the type is unknown, or the name cannot be used.
    """
    left, equals, source = text.partition("=")
    name, colon, kind = left.rpartition(":")
    if not colon:
        name, kind = left, ""
    _check_target_name(name, text)
    if colon and kind.strip().lower() not in _TYPES:
        raise InputError(
            f"--column {text} has the type {kind!r}, expected {', '.join(TargetType)}: write it as "
            "--column NAME:TYPE, or NAME:TYPE=COLUMN where the table calls it otherwise"
        )
    found = _TYPES[kind.strip().lower()] if colon else None
    if found is TargetType.SURVIVAL and "/" not in source:
        raise InputError(
            f"--column {text} names no columns of time and event: write it as --column {name}:survival=TIME/EVENT"
        )
    return ColumnRequest(name=name, type=found, source=source if equals else "")


def time_and_event(source: str, columns: Iterable[str], request: ColumnRequest) -> ColumnRequest:
    """Return a request with `TIME/EVENT` taken apart, also where the names of columns hold slashes.

    Raises:
        InputError: no way to take it apart gives two columns of the table.
    """
    known = {column.casefold() for column in columns}
    places = [match.start() for match in re.finditer("/", source)]
    pairs = [(source[:at].strip(), source[at + 1 :].strip()) for at in places]
    fit = [pair for pair in pairs if {name.casefold() for name in pair} <= known]
    time, event = (fit or pairs)[0]
    return replace(request, source=time, event=event)


def _check_target_name(name: str, text: str) -> None:
    fault = fault_of_name(name) or ("it holds '='" if "=" in name else "")
    fault = fault or ("it holds '@'" if "@" in name else "") or ("it is taken" if name in _RESERVED else "")
    fault = fault or ("its end is that of the spread of a prediction" if name.endswith(SPREAD) else "")
    if fault:
        raise InputError(
            f"--column {text} gives a target the name {name!r}, which cannot be used ({fault}): choose another, as in "
            "--column age:continuous='Age at MRI'"
        )


def group_request(text: str) -> GroupRequest:
    """Return the request of `NAME` or `NAME=COLUMN`.

    >>> group_request("sex=PTGENDER").source
    'PTGENDER'

    Raises:
        InputError: there is no name.
    """
    name, _, source = text.partition("=")
    if not name.strip() or name in _RESERVED:
        raise InputError(f"--group {text} names no grouping: write it as --group sex, or --group sex=PTGENDER")
    return GroupRequest(name=name.strip(), source=source.strip())


def class_spellings(text: str) -> tuple[str, tuple[ClassSpelling, ...]]:
    """Return target and classes of `NAME=CLASS,CLASS=SPELLING|SPELLING,...`, from the lowest class up.

    >>> class_spellings("idh=wildtype,mutant=IDH*|mutated*")[1][1].spellings
    ('IDH*', 'mutated*')

    Raises:
        InputError: it is something else, or names a class twice.
    """
    name, equals, rest = text.partition("=")
    parts = [part.partition("=") for part in rest.split(",")]
    found = tuple(
        ClassSpelling(each.strip(), tuple(word.strip() for word in (words or each).split("|")))
        for each, _, words in parts
    )
    names = [each.name for each in found]
    if not (name and equals) or len(found) < 2 or not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"--classes {text} does not list two or more classes: write it as --classes NAME=LOWEST,...,HIGHEST (for a "
            "binary target NEGATIVE,POSITIVE), each with its spellings where they differ: idh=wildtype,mutant=IDH*"
        )
    return name, found


def with_options(
    requests: Sequence[ColumnRequest],
    *,
    classes: Mapping[str, tuple[ClassSpelling, ...]],
    positive: Mapping[str, str],
    units: Mapping[str, str],
    per_scan: Sequence[str],
) -> list[ColumnRequest]:
    """Return requests with what further options say about their targets.

    Raises:
        InputError: an option names a target that is not asked for.
    """
    names = [request.name for request in requests]
    options: tuple[tuple[str, Iterable[str]], ...] = (
        ("--classes", classes), ("--positive", positive), ("--unit", units), ("--per-scan", per_scan),
    )  # fmt: skip
    for option, given in options:
        for name in given:
            if name not in names:
                raise InputError(
                    f"{option} names {name}, which is no target here ({', '.join(names) or 'there is none'}): name one "
                    f"of them, or add --column {name}:TYPE"
                )
    return [
        replace(
            request,
            classes=classes.get(request.name, request.classes),
            positive=positive.get(request.name, request.positive),
            unit=units.get(request.name, request.unit),
            per_scan=request.per_scan or request.name in per_scan,
        )
        for request in requests
    ]
