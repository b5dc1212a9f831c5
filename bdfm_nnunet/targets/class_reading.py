"""Classes of a target: how many there are, in which order, and which of them a cell means."""

from collections import Counter
from collections.abc import Sequence

from bdfm_nnunet.targets.cell_values import CellFault, is_date, plain_class, same
from bdfm_nnunet.targets.column_requests import ClassSpelling, ColumnRequest
from bdfm_nnunet.targets.target_types import TargetType

POSITIVE = {
    "1", "true", "yes", "y", "positive", "pos", "+", "present", "mutant", "mutated", "mut", "methylated", "co-deleted",
    "codeleted", "abnormal", "patient", "diseased", "ad", "dementia", "demented", "dead", "deceased", "died", "event",
    "1:deceased", "tumour", "tumor", "lesion", "responder", "converter", "wahr", "ja", "vrai", "oui", "high", "male",
    "m",
}  # fmt: skip
"""Words for the positive class, or for an event; the other class is then the negative one."""
NEGATIVE = {
    "0", "false", "no", "n", "negative", "neg", "-", "absent", "wildtype", "wild-type", "wild type", "wt",
    "unmethylated", "intact", "normal", "control", "healthy", "hc", "cn", "nondemented", "non-demented", "alive",
    "living", "censored", "0:living", "lost to follow-up", "falsch", "nein", "faux", "non", "low", "female", "f",
}  # fmt: skip
"""Words for the negative class, or for a censored case."""
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5}
MOST_CLASSES = 20


class Classes:
    """The classes of a column in order, and the cells that mean them.

    Attributes:
        names: in the order of their numbers.
    """

    def __init__(self, spellings: Sequence[ClassSpelling]) -> None:
        self.names = tuple(each.name for each in spellings)
        self._spellings = [(number, word) for number, each in enumerate(spellings) for word in each.spellings]
        self._spellings.sort(key=lambda pair: "*" in pair[1])

    def number(self, cell: str) -> int:
        """Return the number of the class that a cell means.

        Raises:
            CellFault: it means none.
        """
        for number, spelling in self._spellings:
            if same(cell, spelling):
                return number
        raise CellFault(f"is none of {', '.join(self.names)}")


def check_class_cell(cell: str) -> None:
    """Raise a CellFault unless a cell can be the name of a class."""
    if is_date(cell):
        raise CellFault("is a date, or a class such as 1-2 that a spreadsheet made a date")
    if cell.startswith("#") and (cell.endswith(("!", "?")) or set(cell) == {"#"}):
        raise CellFault("is an error of a spreadsheet, expected a class")


def found_spellings(cells: Sequence[str]) -> list[ClassSpelling]:
    """Return the classes of cells as they are spelt, numbers first and in order; spellings that differ in case are one.

    Example:
        >>> [each.name for each in found_spellings(["10", "2.0", "4", "low", "Low"])]
        ['2', '4', '10', 'low']
    """
    first: dict[str, str] = {}
    for cell in cells:
        first.setdefault(plain_class(cell).casefold(), plain_class(cell))
    names = sorted(first.values(), key=class_order)
    return [ClassSpelling(name, (name,)) for name in names]


def class_order(name: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers by value, Roman ones too, and before words."""
    number = number_of(name)
    return (1, 0.0, name.casefold()) if number is None else (0, number, "")


def number_of(name: str) -> float | None:
    """Return the value of a class that is a number, plain or Roman; else None."""
    if name.casefold() in _ROMAN:
        return float(_ROMAN[name.casefold()])
    try:
        return float(name)
    except ValueError:
        return None


def ordered(spellings: Sequence[ClassSpelling], request: ColumnRequest, kind: TargetType) -> list[ClassSpelling]:
    """Return classes in the order of their numbers, for a binary target the positive one last.

    Raises:
        CellFault: the order of an ordinal target's classes, or which class `positive` names, is not known.
    """
    classes = list(spellings)
    if kind is TargetType.BINARY and request.positive:
        chosen = [each for each in classes if same(each.name, request.positive)]
        if len(chosen) != 1:
            raise CellFault(f"has the classes {_names(classes)}, none of which is the positive {request.positive!r}")
        return [*(each for each in classes if each not in chosen), *chosen]
    if request.classes:
        return classes
    if kind is TargetType.BINARY and len(classes) == 2:
        return sorted(classes, key=lambda each: _positivity(each.name))
    if kind is TargetType.ORDINAL and any(number_of(each.name) is None for each in classes):
        raise CellFault(f"has classes of unknown order ({_names(classes)})")
    return classes


def says_which_is_positive(classes: Sequence[str]) -> bool:
    """Return whether the names of two classes tell which is the positive one."""
    return {_positivity(name) for name in classes} != {0}


def _positivity(name: str) -> int:
    return (name.casefold() in POSITIVE) - (name.casefold() in NEGATIVE)


def _names(classes: Sequence[ClassSpelling]) -> str:
    return ", ".join(each.name for each in classes[:10])


def counts(cells: Sequence[str]) -> str:
    """Return classes with their numbers of rows, the most frequent first.

    >>> counts(["a", "b", "a"])
    'a 2, b 1'
    """
    found = Counter(plain_class(cell) for cell in cells).most_common()
    return ", ".join(f"{name} {times}" for name, times in found[:8]) + (" ..." if len(found) > 8 else "")


def inferred_type(cells: Sequence[str]) -> TargetType | None:
    """Return the type that cells without missing ones suggest; None for texts, dates, ids and constants.

    Numbers are continuous, but for two values (binary) and up to five whole ones in at least four rows each on average
    (ordinal); words are classes where there are three rows of each on average.

    Example:
        >>> inferred_type(["2", "3", "4"] * 4), inferred_type(["61", "62.5", "70"])
        (<TargetType.ORDINAL: 'ordinal'>, <TargetType.CONTINUOUS: 'continuous'>)
    """
    classes = found_spellings(cells)
    values = [number_of(each.name) for each in classes]
    if len(classes) < 2 or any(is_date(cell) for cell in cells):
        return None
    if len(classes) == 2:
        return TargetType.BINARY if len(cells) > 2 else None
    if all(value is not None for value in values):
        whole = all(float(value or 0).is_integer() for value in values)
        few = whole and len(classes) <= 5 and len(cells) >= 4 * len(classes)
        return TargetType.ORDINAL if few else TargetType.CONTINUOUS
    return TargetType.MULTICLASS if len(classes) <= MOST_CLASSES and len(cells) >= 3 * len(classes) else None
