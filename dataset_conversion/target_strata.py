"""What splits by a target need: in which stratum each case is, and which sites are kept out of all folds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.stratification import Facts
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType

BINS = 4
MOST_NAMES = 5


@dataclass(frozen=True)
class TargetStrata:
    """Strata of the cases by their targets.

    Attributes:
        classes: case to classes, such as `idh=mutant`; a part of the cases is to have each.
        bins: case to bins of its numbers and times.
        of_target: target to its strata in order: classes, `event` and `censored`, or quarters of a number.
        nothing: cases of which no named target is known.
    """

    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    of_target: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nothing: frozenset[str] = frozenset()

    @classmethod
    def of(cls, targets: Targets, names: Sequence[str], cases: Sequence[str]) -> "TargetStrata":
        """Return the strata of some cases.

        Args:
            targets: of the data set.
            names: of the targets that count.
            cases: to be split.

        Raises:
            InputError: there is no such target, or a case has none of them.
        """
        classes: dict[str, set[str]] = {case: set() for case in cases}
        bins: dict[str, set[str]] = {case: set() for case in cases}
        of_target = {}
        known: set[str] = set()
        for name in dict.fromkeys(names):
            values = targets.values(name, cases)
            labels, more, of_target[name] = _strata(targets.columns[name], values)
            for case, label, further in zip(cases, labels, more):
                classes[case] |= {f"{name}={label}"} if label else set()
                bins[case] |= {f"{name} {further}"} if further else set()
                known |= {case} if label or further else set()
        if names and not known:
            raise InputError(
                f"no case of the data set has a value of {' or '.join(names)}: check the targets with `bdfm targets`"
            )
        return cls(
            {case: frozenset(each) for case, each in classes.items()},
            {case: frozenset(each) for case, each in bins.items()},
            of_target,
            frozenset(cases) - known,
        )

    def kept(self, facts: Sequence[Facts], out: Collection[str] = ()) -> list[Facts]:
        """Return the cases that are split, with their strata.

        Args:
            facts: of all cases.
            out: cases that are kept out.
        """
        empty: frozenset[str] = frozenset()
        return [
            replace(fact, classes=self.classes.get(fact.case, empty), bins=self.bins.get(fact.case, empty))
            for fact in facts
            if fact.case not in self.nothing and fact.case not in out
        ]

    def count(self, cases: Collection[str]) -> dict[str, dict[str, int]]:
        """Return target to stratum to number of cases."""
        return {
            name: {label: sum(self._has(case, name, label) for case in cases) for label in labels}
            for name, labels in self.of_target.items()
        }

    def _has(self, case: str, name: str, label: str) -> bool:
        return f"{name}={label}" in self.classes.get(case, ()) or f"{name} {label}" in self.bins.get(case, ())

    def lacking(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return a sentence for each class that a whole fold lacks in training or validation.

        Args:
            rows: of the whole folds: the fold and its counts, in `targets` and `validation_targets`.
        """
        found = []
        for name, labels in self.of_target.items():
            for label in labels:
                for key, part in (("targets", "training"), ("validation_targets", "validation")):
                    folds = [str(row["fold"]) for row in rows if not row[key][name][label]]
                    if folds and any(f"{name}={label}" in each for each in self.classes.values()):
                        found.append(
                            f"{name}: no {part} case of fold {' and '.join(folds)} has the class {label}; scores that "
                            "need it are not defined there, so make fewer folds with --folds or merge classes"
                        )
        return found


def _strata(column: TargetColumn, values: NDArray[np.float64]) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Return class and bin of every case, empty where there is none, and the strata that are counted."""
    known = [not np.isnan(row).any() for row in values]
    if column.type.has_classes:
        labels = [column.classes[int(value)] if there else "" for value, there in zip(values[:, 0], known)]
        return labels, [""] * len(labels), column.classes
    numbers = values[:, 0]
    edges = np.quantile(numbers[known], np.linspace(0, 1, BINS + 1)[1:-1]) if any(known) else np.zeros(0)
    quarters = [f"quarter {int(np.searchsorted(edges, number)) + 1}" if there else ""
                for number, there in zip(numbers, known)]  # fmt: skip
    if column.type is not TargetType.SURVIVAL:
        return [""] * len(quarters), quarters, tuple(f"quarter {number}" for number in range(1, BINS + 1))
    events = [("event" if event else "censored") if there else "" for event, there in zip(values[:, 1], known)]
    return events, quarters, ("censored", "event")


# ----------------------------------------------------------------------------------------------------------- external


def external_cases(
    wanted: Sequence[str], groupings: Mapping[str, Mapping[str, str]], patients: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return `GROUPING=VALUE` to the cases that are kept out, with all scans of their patients.

    Args:
        wanted: values of a grouping, such as a site, or `GROUPING=VALUE` where several have the value.
        groupings: name to case to value.
        patients: case to patient, for the cases that are to be split.

    Raises:
        InputError: no grouping has a value, several have it, or no patient would be left.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in wanted:
        name, value = _grouping_of(text, groupings)
        members = groupings[name]
        away = {patients[case] for case in patients if members.get(case, "").casefold() == value.casefold()}
        if not away:
            raise InputError(f"--external {text} names no training case: name a {name} that has some")
        found[f"{name}={value}"] = tuple(sorted(case for case, patient in patients.items() if patient in away))
    out = {case for cases in found.values() for case in cases}
    if out and len({patient for case, patient in patients.items() if case not in out}) < 2:
        raise InputError(f"--external {' '.join(wanted)} leaves fewer than two patients to split: keep out less")
    return found


def _grouping_of(text: str, groupings: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """Return the grouping that has a value, and the value as it is written there."""
    asked, equals, rest = text.partition("=")
    pairs = [(asked, rest)] if equals and asked in groupings else [(name, text) for name in groupings]
    fit = [
        (name, value)
        for name, wanted in pairs
        for value in sorted(set(groupings[name].values()))
        if value.casefold() == wanted.casefold()
    ]
    if len(fit) == 1:
        return fit[0]
    if fit:
        names = " or ".join(f"--external {name}={value}" for name, value in fit)
        raise InputError(f"--external {text} is a value of several groupings: write {names}")
    shown = "; ".join(f"{name}: {_some(sorted(set(members.values())))}" for name, members in groupings.items())
    raise InputError(
        f"--external {text} is no value of a grouping of this data set ({shown or 'it has none'}): install groupings "
        "with `bdfm targets ... --group site`, or give a table with --sites"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")
