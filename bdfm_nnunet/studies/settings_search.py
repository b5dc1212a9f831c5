"""The search of an arm's settings by their validation scores; all of them in full, or by successive halving."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.studies.study_settings import LONGEST_EPOCH

KEPT = 3
"""One of so many settings goes on after each rung, with so many times the steps."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training with some settings.

    Attributes:
        number: of the settings.
        settings: setting to value.
        steps: optimiser steps; the schedule of the learning rate is as long.
    """

    number: int
    settings: dict[str, Any]
    steps: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        trial: the trial.
        score: mean Dice of the validation cases, or minus the loss of their targets; None where the training diverged
            or there is no such case.
        seconds: that the training took.
        wall_seconds: with the validation, since it was last begun.
        note: why the training diverged.
    """

    trial: Trial
    score: float | None
    seconds: float
    wall_seconds: float = 0.0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain types."""
        about = {"number": self.trial.number, "settings": self.trial.settings, "steps": self.trial.steps}
        return {**about, "score": self.score, "seconds": self.seconds, "note": self.note}


def rungs(count: int, steps: int, *, halving: bool) -> list[int]:
    """Return the steps of each rung, the last of which is all of them.

    Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943) with a factor of three: each rung
    costs as much as the last one, so that n settings cost about log3(n) + 1 trainings instead of n.

    Args:
        count: number of settings.
        steps: of a whole training.
        halving: whether to have more than one rung.

    Example:
        >>> rungs(9, 900, halving=True), rungs(9, 900, halving=False)
        ([100, 300, 900], [900])
    """
    number = max(1, math.ceil(math.log(count, KEPT) - 1e-9) + 1) if halving else 1
    parts = [math.ceil(steps / KEPT**power) for power in range(number - 1, 0, -1)]
    return [*(part if part <= LONGEST_EPOCH else 10 * math.ceil(part / 10) for part in parts), steps]


def search(
    settings: Sequence[dict[str, Any]], run: Callable[[Trial], Outcome], *, steps: int, halving: bool = False
) -> tuple[Outcome | None, list[Outcome]]:
    """Try settings and return the best outcome of all steps, None if every training diverged, and all outcomes.

    A tie is won by the settings that come first.

    Args:
        settings: each is tried.
        run: trains and scores.
        steps: of a whole training.
        halving: whether the worse two thirds end after a third of the steps, and so on.

    Example:
        >>> def run(trial):
        ...     return Outcome(trial=trial, score=-abs(trial.settings["rate"] - 0.003), seconds=1.0)
        >>> best, told = search([{"rate": 0.001}, {"rate": 0.003}, {"rate": 0.01}], run, steps=300, halving=True)
        >>> best.trial.settings, [outcome.trial.steps for outcome in told]
        ({'rate': 0.003}, [100, 100, 100, 300])
    """
    left = list(enumerate(settings))
    told: list[Outcome] = []
    for size in rungs(len(settings), steps, halving=halving):
        found = [run(Trial(number=number, settings=each, steps=size)) for number, each in left]
        told += found
        sound = [outcome for outcome in found if not outcome.note]
        ranked = sorted(sound, key=lambda outcome: -(outcome.score or 0.0))
        kept = {outcome.trial.number for outcome in ranked[: math.ceil(len(left) / KEPT)]}
        if size == steps or not ranked:
            return (ranked[0] if ranked else None), told
        left = [(number, each) for number, each in left if number in kept]
    raise AssertionError("the last rung has all steps")
