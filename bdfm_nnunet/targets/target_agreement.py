"""Whether a model and a data set mean the same by a target: its type, the order of its classes, its unit."""

from collections.abc import Iterable, Mapping
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.targets.target_types import TargetColumn, TargetType

_TOLD = [{"name": str, "type": str, "classes": [str], "unit": str}]


def columns_told(entries: Any) -> tuple[TargetColumn, ...]:
    """Return the targets that a file of a model tells; none where it tells them in no known form.

    Example:
        >>> columns_told([{"name": "age", "type": "continuous", "classes": [], "unit": "years"}])[0].unit
        'years'
    """
    if fault_of(entries, _TOLD) or not {entry["type"] for entry in entries} <= {kind.value for kind in TargetType}:
        return ()
    return tuple(
        TargetColumn(entry["name"], TargetType(entry["type"]), tuple(entry["classes"]), entry["unit"])
        for entry in entries
    )


def check_agreement(columns: Mapping[str, TargetColumn], told: Iterable[TargetColumn], source: str) -> None:
    """Check that predictions of a model mean what the targets of a data set mean; others than these are passed over.

    A probability of the positive class says the opposite once the classes are in another order.

    Args:
        columns: targets of the data set.
        told: targets that the model has learned.
        source: of the predictions, for the message.

    Raises:
        InputError: type, classes or unit of a target differ.

    Example:
        >>> own, learned = (TargetColumn("idh", TargetType.BINARY, classes) for classes in (("a", "b"), ("b", "a")))
        >>> check_agreement({"idh": own}, [learned], "subjects.csv")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: subjects.csv is of a model that learned idh as binary (b, a), but ...
    """
    for learned in told:
        own = columns.get(learned.name)
        if own is not None and not _agree(own, learned):
            raise InputError(
                f"{source} is of a model that learned {own.name} as {_in_words(learned)}, but targets.json now has it "
                f"as {_in_words(own)}: install the targets as they were with `bdfm targets`, or train again"
            )


def _agree(one: TargetColumn, two: TargetColumn) -> bool:
    units = {one.unit, two.unit} - {""}
    return (one.type, one.classes) == (two.type, two.classes) and len(units) < 2


def _in_words(column: TargetColumn) -> str:
    inside = ", ".join(column.classes) or column.unit
    return f"{column.type} ({inside})" if inside else str(column.type)
