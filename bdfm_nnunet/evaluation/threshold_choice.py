"""The threshold from which on a probability counts as positive, chosen on other patients than those that are scored."""

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_curves import roc_curve
from bdfm_nnunet.evaluation.subject_units import ScoredUnits


def chosen_threshold(units: ScoredUnits, *, source: str = "the table of predictions") -> float:
    """Return the threshold with the highest balanced accuracy (Youden's index), of several the one nearest to 0.5.

    Youden 1950, https://doi.org/10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3. It lies halfway between
    the lowest probability that counts as positive and the next lower one.

    Args:
        units: of a binary target; other patients than those that are scored with it.
        source: where they come from, for the message.

    Raises:
        InputError: there is only one class.

    Example:
        >>> from bdfm_nnunet.evaluation.subject_units import units_of
        >>> from bdfm_nnunet.targets import TargetColumn, TargetType
        >>> idh = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
        >>> truth, p = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0.1, 0.2, 0.3, 0.9])
        >>> chosen_threshold(units_of(idh, truth, {"idh": p}, patients="abcd"))
        0.25
    """
    positive = units.classes == 1
    if not len(units) or positive.all() or not positive.any():
        raise InputError(
            f"{source} has cases of one class of {units.column.name} alone, so that no threshold can be chosen on it: "
            "give the predictions of another fold, or a number"
        )
    alarms, hits = roc_curve(positive, units.values)
    borders = np.unique(units.values)[::-1]
    halfway = np.append((borders[:-1] + borders[1:]) / 2, borders[-1])
    gain = (hits - alarms)[1:]
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(min(halfway[best], key=lambda threshold: abs(threshold - 0.5)))
