"""Targets that something beside the image tells: the site, or the place of a case in the list."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.targets.target_types import Targets

FEWEST = 8
"""With fewer cases than these, order and sites tell nothing."""
ORDERED = 0.95
"""Share of pairs of cases in the order of their values from which on a target counts as told by the order."""
_PLACES = ("site", "scanner", "centre", "center", "hospital", "institution", "manufacturer", "station")


def leak_warnings(targets: Targets) -> list[str]:
    """Return a sentence for every target that is told by the site of a case or by its number.

    Example:
        >>> import numpy as np
        >>> from bdfm_nnunet.targets import TargetColumn, TargetType
        >>> cases = tuple(f"case_{number:02d}" for number in range(10))
        >>> size = TargetColumn("size", TargetType.CONTINUOUS)
        >>> numbers = {"size": np.arange(10.0)[:, None]}
        >>> leak_warnings(Targets({"size": size}, cases, dict(zip(cases, cases)), {}, numbers))[0][:42]
        'size equals the number in the case id of a'
    """
    found = []
    places = {name: values for name, values in targets.groups.items() if any(word in name.lower() for word in _PLACES)}
    places["beginning of the case id"] = {case: _beginning(case) for case in targets.cases}
    for name in targets.columns:
        cases = targets.known(name)
        values = targets.values(name, cases)[:, 0]
        if len(cases) >= FEWEST:
            found += [_of_place(name, place, cases, values, told) for place, told in places.items()]
            found.append(_of_order(name, cases, values))
    return [sentence for sentence in found if sentence]


def _beginning(case: str) -> str:
    match = re.match(r"[^\d]*[A-Za-z][^\d]*", case)
    return match[0].strip("-_ ") if match else ""


def _of_place(name: str, place: str, cases: Sequence[str], values: NDArray[np.float64], told: Mapping[str, str]) -> str:
    members: dict[str, list[float]] = {}
    for case, value in zip(cases, values.tolist()):
        if told.get(case):
            members.setdefault(told[case], []).append(value)
    several = [each for each in members.values() if len(each) > 1]
    if len(members) < 2 or len(several) < 2 or len({each[0] for each in members.values()}) < 2:
        return ""
    if any(len(set(each)) > 1 for each in members.values()):
        return ""
    return (
        f"{name} is the same in all cases of a {place} ({len(members)} of them): a network may learn to tell these "
        "apart instead; keep one out with `bdfm splits --external`, or compare with a score within each"
    )


def _of_order(name: str, cases: Sequence[str], values: NDArray[np.float64]) -> str:
    numbers = np.array([int((re.findall(r"\d+", case) or ["0"])[-1][:15]) for case in cases], dtype=float)
    if np.array_equal(numbers, values):
        return (
            f"{name} equals the number in the case id of all {len(cases)} cases: it may be a counter and no measure, "
            "so check the column"
        )
    share = _concordance(np.arange(len(cases)), values)
    if share is None or ORDERED > share > 1 - ORDERED:
        return ""
    return (
        f"{name} {'rises' if share > 0.5 else 'falls'} with the order of the case ids ({max(share, 1 - share):.0%} of "
        "the pairs): check that cases were not numbered by it, as sites or dates of the scans may go with it"
    )


def _concordance(order: NDArray[np.int64], values: NDArray[np.float64]) -> float | None:
    """Return the share of pairs of different values in rising order; None where a class has fewer than three cases."""
    _, times = np.unique(values, return_counts=True)
    if len(times) < 2 or (len(times) < FEWEST and np.sort(times)[-2] < 3):
        return None
    rises = np.sign(order[:, None] - order[None, :]) * np.sign(values[:, None] - values[None, :])
    pairs = np.count_nonzero(rises)
    return float(np.count_nonzero(rises > 0) / pairs)
