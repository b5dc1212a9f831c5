"""Survival curves that are known at different times, at common ones.

Models of different folds tell survival at times of their own training cases; to be averaged or scored together they
must tell it at the same ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]


def time_of(column: str) -> tuple[str, float] | None:
    """Return the target and the time of a column `NAME@TIME` of a table of predictions; None for other columns.

    Example:
        >>> time_of("death@365.5"), time_of("death")
        (('death', 365.5), None)
    """
    name, mark, text = column.rpartition("@")
    try:
        time = float(text)
    except ValueError:
        return None
    return (name, time) if mark and 0 <= time < float("inf") else None


def survival_at(times: Array, survival: Array, wanted: Array) -> Array:
    """Return survival at other times: 1 at time 0, and linear between times (constant density of events).

    Kvamme and Borgan 2021, https://doi.org/10.1007/s10985-021-09532-6, section 3.2.

    Args:
        times: (T,), rising.
        survival: (N, T).
        wanted: (W,), at most the last of the times.

    Returns:
        (N, W).

    Example:
        >>> survival_at(np.array([10.0, 20.0]), np.array([[0.8, 0.4]]), np.array([5.0, 10.0, 15.0])).round(6).tolist()
        [[0.9, 0.8, 0.6]]
    """
    known = times if times[0] == 0 else np.concatenate([[0.0], times])
    curves = survival if times[0] == 0 else np.concatenate([np.ones((len(survival), 1)), survival], axis=1)
    found: Array = np.array([np.interp(wanted, known, curve) for curve in curves]).reshape(len(curves), len(wanted))
    return found


def at_common_times(tables: Sequence[Columns]) -> list[dict[str, NDArray[Any]]]:
    """Return the columns of several tables with survival at the same times; all other columns are as they were.

    The times of a target are all those that any table has, up to the last that every table reaches. A target whose
    times agree already, or of which a table has none, is left as it is.

    Args:
        tables: columns of each table, name -> values.

    Example:
        >>> first, second = {"os@10": np.array([0.8])}, {"os@20": np.array([0.6])}
        >>> found = at_common_times([first, second])
        >>> found[0]["os@10"].tolist(), found[1]["os@10"].round(6).tolist(), list(found[1])
        ([0.8], [0.8], ['os@10'])
    """
    changed = [dict(table) for table in tables]
    targets = {named[0] for table in tables for column in table if (named := time_of(column))}
    for target in sorted(targets):
        curves = [_curves(table, target) for table in tables]
        if not all(curves) or all(set(each) == set(curves[0]) for each in curves):
            continue
        last = min(max(each) for each in curves)
        wanted = sorted({time for each in curves for time in each if time <= last})
        for table, each in zip(changed, curves, strict=True):
            _replace(table, target, each, np.array(wanted))
    return changed


def _curves(table: Columns, target: str) -> dict[float, Array]:
    """Return time -> survival of the cases."""
    named = {column: time_of(column) for column in table}
    return {found[1]: np.asarray(table[column], dtype=np.float64)
            for column, found in named.items() if found is not None and found[0] == target}  # fmt: skip


def _replace(table: dict[str, NDArray[Any]], target: str, curves: Mapping[float, Array], wanted: Array) -> None:
    for column in list(table):
        if (named := time_of(column)) is not None and named[0] == target:
            del table[column]
    times = np.array(sorted(curves))
    known = np.stack([curves[time] for time in times.tolist()], axis=1)
    found = survival_at(times, known, wanted)
    for number, time in enumerate(wanted.tolist()):
        table[f"{target}@{time:.10g}"] = curves[time] if time in curves else found[:, number]
