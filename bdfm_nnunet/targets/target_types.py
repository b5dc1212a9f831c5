"""Targets of subject-level tasks: what is known of each case beside its image, and of which kind it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError


class TargetType(str, Enum):
    """Kind of a target; its value is what the command line and the files call it.

    Example:
        >>> TargetType("ordinal").has_classes, TargetType.SURVIVAL.width
        (True, 2)
    """

    BINARY = "binary"
    MULTICLASS = "multi-class"
    ORDINAL = "ordinal"
    CONTINUOUS = "continuous"
    SURVIVAL = "survival"

    def __str__(self) -> str:
        """Return its name in files."""
        return self.value

    @property
    def has_classes(self) -> bool:
        """Whether a value is one of a few classes."""
        return self in (TargetType.BINARY, TargetType.MULTICLASS, TargetType.ORDINAL)

    @property
    def width(self) -> int:
        """Number of numbers per case: 2 for time and event of a survival, else 1."""
        return 2 if self is TargetType.SURVIVAL else 1


@dataclass(frozen=True)
class TargetColumn:
    """One target.

    Attributes:
        name: name of the target, also in tables of predictions.
        type: kind.
        classes: names of the classes in the order of their numbers, as written in the table; for a binary target
            (negative, positive), for an ordinal one from the lowest up. Empty for the other kinds.
        unit: unit of a continuous value or of a survival time; may be empty.

    Example:
        >>> TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")).classes[1]
        'mutant'
    """

    name: str
    type: TargetType
    classes: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Targets:
    """The targets of a data set.

    Attributes:
        columns: target name to its column.
        cases: ids of all cases of the data set, sorted, whether anything is known of them or not.
        patients: case to patient; cases of one patient must stay on one side of a split.
        groups: name of a grouping, such as `sex` or `site`, to the value of each case where it is known.
        numbers: target name to an array (cases, 1), or (cases, 2) for survival, in the order of `cases`; see `values`.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
        >>> ages = np.array([[64.0], [np.nan]])
        >>> targets = Targets({"age": age}, ("a", "b"), {"a": "P1", "b": "P2"}, {}, {"age": ages})
        >>> targets.values("age", ["b", "a"]).ravel()
        array([nan, 64.])
    """

    columns: Mapping[str, TargetColumn]
    cases: tuple[str, ...]
    patients: Mapping[str, str]
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    numbers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def values(self, column: str, cases: Sequence[str]) -> NDArray[np.float64]:
        """Return the values of a target.

        Args:
            column: its name.
            cases: case ids; of one that the table does not know, everything is missing.

        Returns:
            Array (cases, 1), float64: a number, or the number of a class from 0 up. For survival (cases, 2): time, and
            1 where the event happened, 0 where the case was censored then. NaN is missing.

        Raises:
            InputError: there is no target of this name.
        """
        if column not in self.columns:
            raise InputError(
                f"there is no target {column}, only {', '.join(self.columns) or 'none at all'}: name one of these, or "
                "install it with `bdfm targets`"
            )
        known = self.numbers[column]
        with_nothing = np.vstack([known, np.full((1, known.shape[1]), np.nan)])
        place = {case: index for index, case in enumerate(self.cases)}
        return with_nothing[[place.get(case, len(known)) for case in cases]]

    def known(self, column: str) -> tuple[str, ...]:
        """Return the cases whose value of a target is known.

        Raises:
            InputError: there is no target of this name.
        """
        known = self.values(column, self.cases)
        return tuple(case for case, numbers in zip(self.cases, known) if not np.isnan(numbers).any())
