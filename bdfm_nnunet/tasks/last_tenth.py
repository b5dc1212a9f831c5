"""How long is enough: what the end of a training brought."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

FEWEST_EPOCHS = 10
STILL_IMPROVING = 0.05
"""Share of the whole gain above which the last tenth says: train longer."""


@dataclass(frozen=True)
class LastTenth:
    """What the last tenth of the epochs brought in one monitor.

    Attributes:
        monitor: name of the monitor.
        gain: improvement within the last tenth; below 0 if the monitor got worse. None after too few epochs.
        whole_gain: improvement since the first epoch.
        noise: spread of the monitor from epoch to epoch, which a gain has to exceed.
        verdict: sentence for people.
    """

    monitor: str
    gain: float | None
    whole_gain: float | None
    noise: float | None
    verdict: str


def last_tenth(values: Sequence[float], monitor: str, *, larger_is_better: bool) -> LastTenth:
    """Judge the last tenth of a training by a monitor of its validation.

    The gain is the median of the last tenth's second half minus the median of equally many epochs before the last
    tenth. The noise is 1.48 times the median absolute deviation of the steps from epoch to epoch within the last
    fifth, whose trend is taken out.

    Args:
        values: the monitor after each epoch.
        monitor: its name, for the verdict.
        larger_is_better: whether larger values are better.

    Example:
        >>> rising = [1 - 0.5 ** (epoch / 20) for epoch in range(100)]
        >>> last_tenth(rising, "psnr", larger_is_better=True).verdict
        'psnr has nearly settled: the last tenth of the epochs brought 0.0144 of 0.965 (1 %)'
    """
    known = [value if larger_is_better else -value for value in values]
    if len(known) < FEWEST_EPOCHS or not all(map(math.isfinite, known)):
        why = f"{len(known)} epochs" if len(known) < FEWEST_EPOCHS else "values that are not finite"
        return LastTenth(monitor, None, None, None, f"{why} do not tell whether {monitor} has settled")
    tenth = max(len(known) // 10, 1)
    width = math.ceil(tenth / 2)
    end, before = median(known[-width:]), median(known[-tenth - width : -tenth])
    gain, whole = end - before, end - known[0]
    noise = _noise(known[-max(2 * tenth, 5) :])
    return LastTenth(monitor, gain, whole, noise, _verdict(monitor, gain, whole, noise))


def _noise(values: Sequence[float]) -> float:
    steps = [after - before for before, after in pairwise(values)]
    middle = median(steps)
    return 1.48 * median(abs(step - middle) for step in steps)


def _verdict(monitor: str, gain: float, whole: float, noise: float) -> str:
    share = f" ({100 * gain / whole:.0f} %)" if whole > 0 else ""
    brought = f"the last tenth of the epochs brought {gain:.3g} of {whole:.3g}{share}"
    if gain < -noise:
        return f"{monitor} got worse by {-gain:.3g} in the last tenth of the epochs: lower training.initial_lr"
    if whole <= noise:
        return f"{monitor} has not improved since the first epoch: check data, learning rate and settings"
    if gain <= noise:
        return f"{monitor} has settled: {brought}, no more than its noise of {noise:.2g}"
    if gain > STILL_IMPROVING * whole:
        return f"{monitor} is still improving: {brought}; a training with more epochs would go further"
    return f"{monitor} has nearly settled: {brought}"
