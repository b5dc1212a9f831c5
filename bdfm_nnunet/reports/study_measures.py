"""What a study measures of an arm, with intervals over patients and seeds: Dice, or the scores of a target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.crossed_bootstrap import (
    CROSSED_INTERVAL,
    CROSSED_MEASURE_INTERVAL,
    Measured,
    summarise_crossed,
    summarise_crossed_measure,
)
from bdfm_nnunet.evaluation.score_summary import Summary
from bdfm_nnunet.evaluation.subject_measures import measures_of
from bdfm_nnunet.evaluation.subject_score_tables import TITLES
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.targets import TargetColumn, TargetType

Row = Mapping[str, Any]
_OF_CLASSES, _OF_VALUES, _OF_SURVIVAL = ("auc",), ("r2", "mae"), ("c_index",)
_SMALLER_IS_BETTER = ("mae",)
_NOTHING = {"auc": 0.5, "r2": 0.0, "c_index": 0.5}


class StudyMeasure(ABC):
    """A measure of the rows of a study.

    Attributes:
        key: in files.
        name: in sentences and tables.
        title: of its table.
        about: a sentence above the table, on what is averaged and what the brackets are.
        form: format of its numbers.
        smaller_is_better: whether a difference below zero is a gain.
        per_hour: whether its value by device hour means something.
        leads: whether findings in words are about it, and there is a figure.
        nothing: what a model has, at most, that has learned nothing; None where that depends on the cases.
    """

    key: str
    name: str
    title: str
    about: str
    form: str = ".3f"
    smaller_is_better: bool = False
    per_hour: bool = False
    leads: bool = True
    nothing: float | None = None

    @property
    def file(self) -> str:
        """Name of its figure, without ending."""
        return self.key

    @property
    def about_entry(self) -> dict[str, str]:
        """What an entry of the table tells of it."""
        return {"measure": self.key}

    def rows_of(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that it measures; by default all."""
        return list(rows)

    @abstractmethod
    def value(self, rows: Sequence[Row]) -> Summary:
        """Return the value of one arm with one label fraction."""

    @abstractmethod
    def difference(self, rows: Sequence[Row], base: Sequence[Row]) -> Summary:
        """Return the difference from other rows of the same cases and seeds."""

    def parts(self, rows: Sequence[Row], base: Sequence[Row]) -> dict[str, tuple[list[Row], list[Row]]]:
        """Return the rows of the parts that it can be told for apart; by default there are none."""
        return {}


class DiceMeasure(StudyMeasure):
    """The mean Dice over cases and regions."""

    key, name, title = "dice", "Dice", "Mean Dice"
    about = f"Over test cases, regions and seeds; brackets: {CROSSED_INTERVAL}."
    per_hour, nothing = True, 0.01

    def value(self, rows: Sequence[Row]) -> Summary:
        """Return the mean."""
        return summarise_crossed(self._table(rows), patients=patients_of(rows))

    def difference(self, rows: Sequence[Row], base: Sequence[Row]) -> Summary:
        """Return the mean difference by pairs of case and seed."""
        return summarise_crossed(self._table(rows) - self._table(base), patients=patients_of(rows))

    def parts(self, rows: Sequence[Row], base: Sequence[Row]) -> dict[str, tuple[list[Row], list[Row]]]:
        """Return the rows of each region."""
        regions = dict.fromkeys(row["region"] for row in rows)
        return {name: (_of_region(rows, name), _of_region(base, name)) for name in regions}

    @staticmethod
    def _table(rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the Dice of each repetition and case, the mean over the regions that have one."""
        found, cases = repetitions(rows), sorted({row["case"] for row in rows})
        sums, counts = np.zeros((2, len(found), len(cases)))
        for number, repetition in enumerate(found):
            for row in repetition:
                if row["dice"] is not None:
                    place = number, cases.index(row["case"])
                    sums[place] += row["dice"]
                    counts[place] += 1
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


DICE = DiceMeasure()


class TargetMeasure(StudyMeasure):
    """A measure of a target of whole subjects, within each repetition.

    Args:
        column: the target.
        key: of `evaluation.subject_measures`.

    Example:
        >>> age = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
        >>> row = {"case": "a", "patient": "P", "seed": 0, "target": "age", "truth": 60.0, "predicted": 58.5}
        >>> TargetMeasure(age, "mae").value([row]).mean, TargetMeasure(age, "mae").name
        (1.5, 'MAE of age (years)')
    """

    about = f"On the test cases with each seed, the mean over seeds; brackets: {CROSSED_MEASURE_INTERVAL}."

    def __init__(self, column: TargetColumn, key: str) -> None:
        self.column, self.key = column, key
        self.smaller_is_better, self.nothing = key in _SMALLER_IS_BETTER, _NOTHING.get(key)
        unit = f" ({column.unit})" if self.smaller_is_better and column.unit else ""
        self.name = self.title = f"{TITLES[key]} of {column.name}{unit}"
        self.form = "#.3g" if self.smaller_is_better else ".3f"  # digits of a number in some unit
        self.leads = key == _keys(column)[0]

    @property
    def file(self) -> str:
        """Name of its figure, without ending."""
        return f"{self.column.name}_{self.key}"

    @property
    def about_entry(self) -> dict[str, str]:
        """What an entry of the table tells of it."""
        return {"measure": self.key, "target": self.column.name}

    def rows_of(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of the target."""
        return [row for row in rows if row["target"] == self.column.name]

    def value(self, rows: Sequence[Row]) -> Summary:
        """Return the mean over the repetitions."""
        return summarise_crossed_measure(self._measures(rows), patients=patients_of(rows))

    def difference(self, rows: Sequence[Row], base: Sequence[Row]) -> Summary:
        """Return the mean over the repetitions of the difference on the same cases."""
        pairs = zip(self._measures(rows), self._measures(base), strict=True)
        changes = [_minus(own, other) for own, other in pairs]
        return summarise_crossed_measure(changes, patients=patients_of(rows))

    def _measures(self, rows: Sequence[Row]) -> list[Measured]:
        cases = sorted({row["case"] for row in rows})
        return [self._measure(repetition, cases) for repetition in repetitions(rows)]

    def _measure(self, rows: Sequence[Row], cases: Sequence[str]) -> Measured:
        """Return the measure of one repetition, which may have some of the cases only."""
        rows = sorted(rows, key=lambda row: row["case"])
        truth = np.array([np.atleast_1d(self._number(row["truth"])) for row in rows], dtype=np.float64)
        predicted = {self.column.name: np.array([row["predicted"] for row in rows])}
        for label in rows[0].get("probabilities", ()):
            predicted[f"{self.column.name}={label}"] = np.array([row["probabilities"][label] for row in rows])
        own = [row["case"] for row in rows]
        units = units_of(self.column, truth, predicted, patients=[row["patient"] for row in rows], cases=own)
        compute = next(each for each in measures_of(units) if each.name == self.key).compute
        places = [cases.index(case) for (case,) in units.cases]
        return lambda weights: compute(weights[:, places])

    def _number(self, truth: Any) -> Any:
        return self.column.classes.index(truth) if isinstance(truth, str) else truth


def measures_of_targets(columns: Sequence[TargetColumn]) -> list[StudyMeasure]:
    """Return what a study tells of targets: the AUC of classes, R² and MAE of numbers, the C-index of a survival.

    Example:
        >>> [measure.name for measure in measures_of_targets([TargetColumn("age", TargetType.CONTINUOUS)])]
        ['R² of age', 'MAE of age']
    """
    return [TargetMeasure(column, key) for column in columns for key in _keys(column)]


def _keys(column: TargetColumn) -> tuple[str, ...]:
    if column.type.has_classes:
        return _OF_CLASSES
    return _OF_SURVIVAL if column.type is TargetType.SURVIVAL else _OF_VALUES


def repetitions(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each repetition.

    Where each seed holds out other patients, a case's first repetition is the first seed that tests it: the seeds of a
    rotation differ in their patients already, and drawing them too would count that twice.

    Example:
        >>> rows = [{"case": case, "seed": seed} for seed, case in ((0, "a"), (1, "b"), (2, "a"), (3, "b"))]
        >>> [[row["seed"] for row in repetition] for repetition in repetitions(rows)]
        [[0, 1], [2, 3]]
    """
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["case"], set()).add(row["seed"])
    order = {case: sorted(each) for case, each in seeds.items()}
    found: list[list[Row]] = [[] for _ in range(max(map(len, order.values())))]
    for row in rows:
        found[order[row["case"]].index(row["seed"])].append(row)
    return found


def patients_of(rows: Sequence[Row]) -> list[str]:
    """Return the patient of each case, in the order of the cases' names."""
    patients = {row["case"]: row["patient"] for row in rows}
    return [patients[case] for case in sorted(patients)]


def _of_region(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["region"] == name]


def _minus(own: Measured, other: Measured) -> Measured:
    return lambda weights: own(weights) - other(weights)
