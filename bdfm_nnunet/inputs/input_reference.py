"""How far a case lies from a cohort: one score per question, none of which knows what is usual.

Features are counted in standard deviations of the cohort, at least in steps that no reader would see (`_STEPS`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.inputs.case_features import CaseFeatures
from bdfm_nnunet.inputs.coarse_images import Floats, Turn, turned, turns

Numbers = NDArray[np.float64]

GROUPS = ("intensities", "order", "geometry", "surroundings")
LIKENESS = "likeness"
_STEPS: Mapping[str, float] = {
    "intensities": 0.03, "order": 0.02, "geometry": 0.05, "surroundings": 0.05, LIKENESS: 0.03
}  # fmt: skip
_MOST = 25.0
_NEAR = 0.03
_TINY = 1e-6


def exchange_name(pair: tuple[int, int]) -> str:
    """Return the name of the score of two channels."""
    return f"exchange {pair[0]} {pair[1]}"


@dataclass(frozen=True)
class Scores:
    """Departures of one case.

    Attributes:
        contrast: (C,) of each channel's intensities and of their place in the head.
        order: (C,) of each channel's relation to the others; empty where there is one channel.
        size: the largest, of spacing and head or crop.
        surroundings: the largest, of the foreground's volume and the image's border.
        turn: by how much another orientation is more like the cohort (difference of correlations), and which.
        exchange: two channels to how much better each fits the other's files.
    """

    contrast: Numbers
    order: Numbers
    size: float
    surroundings: float
    turn: tuple[float, Turn]
    exchange: Mapping[tuple[int, int], float]

    def named(self) -> dict[str, float]:
        """Return all scores by name, a channel's with its number."""
        return {
            **{f"contrast {channel}": float(value) for channel, value in enumerate(self.contrast)},
            **{f"order {channel}": float(value) for channel, value in enumerate(self.order)},
            "size": self.size,
            "surroundings": self.surroundings,
            "turn": self.turn[0],
            **{exchange_name(pair): value for pair, value in self.exchange.items()},
        }


@dataclass(frozen=True)
class Reference:
    """A cohort.

    Attributes:
        template: (C, S, S, S), mean ranks.
        means: group of features to their means.
        deviations: group of features to their standard deviations.
    """

    template: Floats
    means: Mapping[str, Numbers]
    deviations: Mapping[str, Numbers]

    @classmethod
    def of(cls, cases: Sequence[CaseFeatures], likeness: Numbers) -> "Reference":
        """Describe cases.

        Args:
            cases: at least two.
            likeness: (N, C), correlation of each case's channels with the mean of the others.
        """
        groups = {group: np.array([getattr(case, group) for case in cases]) for group in GROUPS} | {LIKENESS: likeness}
        return cls(
            np.mean([case.ranks for case in cases], axis=0),
            {group: values.mean(axis=0) for group, values in groups.items()},
            {group: values.std(axis=0, ddof=1) for group, values in groups.items()},
        )

    @cached_property
    def _inside(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.template.mean(axis=0) > 0.25  # more than half of the cases; ranks are 0.5 there
        return found

    @cached_property
    def _whole(self) -> Floats:
        return _standardised(self.template.reshape(len(self.template), -1))

    def likeness(self, ranks: Floats) -> Numbers:
        """Return (files, channels): correlation of each file's ranks with each channel's, within the foreground."""
        where = self._inside & (ranks.max(axis=0) > 0)
        if np.count_nonzero(where) < 2:
            return np.zeros((len(ranks), len(self.template)))
        files, channels = _standardised(ranks[:, where]), _standardised(self.template[:, where])
        return np.asarray(files @ channels.T, dtype=np.float64)

    def scores(self, case: CaseFeatures) -> Scores:
        """Return the departures of a case from this cohort."""
        contrast = self._contrast(case)
        order = self._order(case)
        count = len(contrast)
        return Scores(
            contrast=np.sqrt([_halves(contrast[channel, channel]) for channel in range(count)]),
            order=np.array([_of_channel(order, channel) for channel in range(count)] if count > 1 else []),
            size=float(np.abs(self._scaled("geometry", case.geometry)).max()),
            surroundings=float(np.abs(self._scaled("surroundings", case.surroundings)).max()),
            turn=self._turn(case.ranks),
            exchange={pair: _exchange(contrast, order, *pair) for pair in combinations(range(count), 2)},
        )

    def spacing(self, case: CaseFeatures) -> float:
        """Return the largest departure of a case's spacing alone."""
        return float(np.abs(self._scaled("geometry", case.geometry))[:3].max())

    def _scaled(self, group: str, values: Numbers) -> Numbers:
        return (values - self.means[group]) / np.hypot(self.deviations[group], _STEPS[group])

    def _contrast(self, case: CaseFeatures) -> Numbers:
        """Return (files, channels, F): squared departures of each file from each channel."""
        departures = self._scaled("intensities", case.intensities[:, None]) ** 2
        likeness = self._scaled(LIKENESS, self.likeness(case.ranks))[..., None] ** 2
        return np.asarray(np.concatenate([departures, likeness], axis=-1))

    def _order(self, case: CaseFeatures) -> Numbers:
        """Return (files, files, channels, channels, F): squared departures of each pair from each pair."""
        return np.asarray(self._scaled("order", case.order[:, :, None, None]) ** 2)

    def _turn(self, ranks: Floats) -> tuple[float, Turn]:
        likenesses = {}
        for turn in turns():
            files = _standardised(turned(ranks, turn).reshape(len(ranks), -1))
            likenesses[turn] = float((files * self._whole).sum(axis=1).mean())
        given, *others = likenesses
        best = max(likenesses[turn] for turn in others)
        near = [turn for turn in others if likenesses[turn] > best - _NEAR]  # left and right are hard to tell apart
        return best - likenesses[given], min(near, key=lambda turn: (turn[0] != given[0], len(turn[1])))


def _standardised(values: Floats) -> Floats:
    """Return rows of mean 0 and length 1."""
    centred = values - values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, _TINY), dtype=np.float32)


def _halves(contrast: Numbers) -> float:
    """Return the mean squared departure, of which the place of dark and bright (the last) is one half."""
    return float(contrast[:-1].mean() + contrast[-1]) / 2


def _of_channel(order: Numbers, channel: int) -> float:
    others = [other for other in range(len(order)) if other != channel]
    pairs = [order[a, b, a, b].mean() for other in others for a, b in ((channel, other), (other, channel))]
    return float(np.sqrt(np.mean(pairs)))


def _exchange(contrast: Numbers, order: Numbers, a: int, b: int) -> float:
    """Return how much better two channels fit each other's files than their own.

    Features in which the two are alike take no part; a single one of them counts up to `_MOST`.
    """
    given = [contrast[a, a], contrast[b, b], order[a, b, a, b], order[b, a, b, a]]
    other = [contrast[b, a], contrast[a, b], order[b, a, a, b], order[a, b, b, a]]
    return float(sum((np.minimum(one, _MOST) - np.minimum(two, _MOST)).sum() for one, two in zip(given, other)))
