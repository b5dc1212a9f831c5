"""Measures of predicted survival, for the weights of many resamples at once.

Shapes: R resamples, N cases, T times. Weights are (R, N); a case of weight 2 counts as two cases. A case has the time
at which it was last seen, and whether the event happened then (else it is censored: the event came later, or never).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.class_measures import divided

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
_BLOCK = 512


def _pairs(time: Array, event: Flags, risk: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Yield rows of the (N, N) tables of comparable pairs and of their concordance, a block at a time."""
    for start in range(0, len(time), _BLOCK):
        rows = slice(start, start + _BLOCK)
        first, then = time[rows, None], time[None, :]
        comparable = event[rows, None] & ((first < then) | ((first == then) & ~event[None, :]))
        order = np.sign(risk[rows, None] - risk[None, :]) / 2 + 0.5
        yield rows, comparable.astype(np.float64), comparable * order


def concordance(time: Array, event: Flags, risk: Array, weights: Array) -> Array:
    """Return Harrell's C (R,): in how many of the comparable pairs the case with the higher risk has the event first.

    A pair is comparable where the event of one case came before the time of the other; at equal times, where one had
    the event and the other is censored. Two events at one time are no pair. Equal risks count half. Harrell et al.
    1982, https://doi.org/10.1001/jama.1982.03320430047030. NaN without a comparable pair.

    Args:
        time: (N,).
        event: (N,).
        risk: (N,), larger means earlier.
        weights: (R, N).

    Example:
        >>> time, event = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
        >>> concordance(time, event, np.array([3.0, 1.0, 2.0]), np.ones((1, 3))).round(3).tolist()
        [0.667]
    """
    agreed, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for rows, comparable, concordant in _pairs(time, event, risk):
        pairs += ((weights @ comparable.T) * weights[:, rows]).sum(axis=1)
        agreed += ((weights @ concordant.T) * weights[:, rows]).sum(axis=1)
    return divided(agreed, pairs)


def kaplan_meier(time: Array, event: Flags, weights: Array) -> tuple[Array, Array, Array]:
    """Return the product-limit estimate of survival after each of the times that occur.

    Kaplan and Meier 1958, https://doi.org/10.1080/01621459.1958.10501452. Cases censored at a time are still at risk
    of events at that time.

    Args:
        time: (N,).
        event: (N,).
        weights: (R, N).

    Returns:
        Times (T,) in ascending order, share without event after each (R, T), weight at risk before each (R, T).

    Example:
        >>> time, event = np.array([1.0, 2.0, 2.0]), np.array([True, True, False])
        >>> times, share, at_risk = kaplan_meier(time, event, np.ones((1, 3)))
        >>> times.tolist(), share.round(3).tolist(), at_risk.tolist()
        ([1.0, 2.0], [[0.667, 0.333]], [[3.0, 2.0]])
    """
    times, at_risk, events = _counts(time, event, weights)
    left = np.divide(at_risk - events, at_risk, out=np.ones_like(at_risk), where=at_risk > 0)
    share: Array = np.cumprod(left, axis=1, dtype=np.float64)
    return times, share, at_risk


def _counts(time: Array, event: Flags, weights: Array) -> tuple[Array, Array, Array]:
    """Return the times (T,), the weight at risk before each and the weight of the events at each, (R, T)."""
    order = np.argsort(time, kind="stable")
    starts = np.flatnonzero(np.diff(time[order], prepend=-np.inf))
    all_of, with_event = (np.add.reduceat(part[:, order], starts, axis=1) for part in (weights, weights * event))
    return time[order][starts], np.cumsum(all_of[:, ::-1], axis=1)[:, ::-1], with_event


def _uncensored(time: Array, event: Flags, weights: Array) -> tuple[Array, Array]:
    """Return times (T,) and the Kaplan-Meier estimate of staying uncensored after each, (R, T)."""
    times, at_risk, events = _counts(time, event, weights)
    censored = _counts(time, ~event, weights)[2]
    exposed = at_risk - events  # events at a time come before the censoring at it
    left = np.divide(exposed - censored, exposed, out=np.ones_like(exposed), where=exposed > 0)
    share: Array = np.cumprod(left, axis=1, dtype=np.float64)
    return times, share


def brier_at(time: Array, event: Flags, survival: Array, at: Array, weights: Array) -> Array:
    """Return the Brier score of predicted survival at some times, (R, T), weighted for censoring.

    Graf et al. 1999, https://doi.org/10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5: with G
    the share that stays uncensored, estimated on the same cases, the mean over cases of S(t)^2 / G(time-) for events up
    to t and (1 - S(t))^2 / G(t) for cases seen after t.

    Args:
        time: (N,).
        event: (N,).
        survival: predicted chance to be without event at each of the times, (N, T).
        at: the times, (T,).
        weights: (R, N).

    Example:
        >>> time, event = np.array([1.0, 3.0]), np.array([True, False])
        >>> brier_at(time, event, np.array([[0.5], [0.75]]), np.array([2.0]), np.ones((1, 2))).round(5).tolist()
        [[0.15625]]
    """
    times, uncensored = _uncensored(time, event, weights)
    padded = np.concatenate([np.ones((len(weights), 1)), uncensored], axis=1)
    before = padded[:, np.searchsorted(times, time, side="left")]
    weighted = np.divide(weights, before, out=np.zeros_like(weights), where=before > 0)
    happened = event[:, None] & (time[:, None] <= at)
    later = time[:, None] > at
    still = padded[:, np.searchsorted(times, at, side="right")]
    free = weights @ ((1 - survival) ** 2 * later)
    known = np.divide(free, still, out=np.zeros_like(free), where=still > 0)
    total = weights.sum(axis=1, keepdims=True)
    found: Array = divided(weighted @ (survival**2 * happened) + known, np.broadcast_to(total, known.shape))
    return found


def integrated_brier(time: Array, event: Flags, survival: Array, at: Array, weights: Array) -> Array:
    """Return the mean of `brier_at` between the first and the last of the times (R,), by the trapezoidal rule.

    Args:
        time: (N,).
        event: (N,).
        survival: (N, T).
        at: the times in ascending order, (T,); one time gives the score there.
        weights: (R, N).

    Example:
        >>> time, event = np.array([1.0, 3.0]), np.array([True, False])
        >>> survival = np.array([[0.5, 0.5], [0.75, 0.75]])
        >>> integrated_brier(time, event, survival, np.array([2.0, 2.5]), np.ones((1, 2))).round(5).tolist()
        [0.15625]
    """
    scores = brier_at(time, event, survival, at, weights)
    if len(at) == 1:
        return scores[:, 0]
    widths = np.diff(at)
    found: Array = ((scores[:, 1:] + scores[:, :-1]) / 2) @ widths / widths.sum()
    return found
