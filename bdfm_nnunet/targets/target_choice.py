"""The targets that a trainer learns: those that are named, or all of its kind."""

from collections.abc import Sequence

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets.target_types import Targets


def chosen_targets(
    targets: Targets, named: Sequence[str], *, types: Sequence[str], trainer: str, dataset: str
) -> list[str]:
    """Return the names of the targets that a trainer learns.

    Args:
        targets: of the data set.
        named: those that are wanted; none for all of the trainer's kind.
        types: of target that the trainer learns.
        trainer: its name, for messages.
        dataset: name of the data set, for messages.

    Raises:
        InputError: one that is named does not exist or is of another kind, or there is none of this kind.

    Example:
        >>> from bdfm_nnunet.targets.target_types import TargetColumn, TargetType
        >>> targets = Targets({"age": TargetColumn("age", TargetType.CONTINUOUS)}, (), {})
        >>> chosen_targets(targets, (), types=["continuous"], trainer="nnUNetTrainerBDFMRegression", dataset="A")
        ['age']
    """
    fitting = [name for name, column in targets.columns.items() if column.type in types]
    if not fitting:
        has = ", ".join(f"{name} ({column.type})" for name, column in targets.columns.items())
        raise InputError(
            f"{dataset} has no {' or '.join(types)} target, only {has}: install one with `bdfm targets`, or use the "
            "trainer for these"
        )
    for name in named:
        if name not in fitting:
            column = targets.columns.get(name)
            what = f"a {column.type} target" if column is not None else "no target of the data set"
            raise InputError(f"finetuning.targets names {name}, which is {what}: {trainer} learns {', '.join(fitting)}")
    return list(named) or fitting
