"""Stratification: dealing groups of cases out to similar parts.

This is iterative stratification (Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10) for groups and
counts. scikit-learn's StratifiedGroupKFold takes one class a case: the product of regions, sizes and sites would leave
most classes with one case, and it makes equal folds alone, not nested fractions.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE_BINS = 4


@dataclass(frozen=True)
class Facts:
    """The properties that a case is stratified by.

    Attributes:
        case: case id.
        group: cases of a group stay together.
        regions: those that are not empty.
        size: volume of the foreground in mm3; None where it is not known.
        site: empty where it is not known.
        classes: of its targets; like regions, each is to be in every part that has room for it.
        bins: of numbers and times of its targets.
    """

    case: str
    group: str
    regions: frozenset[str] = frozenset()
    size: float | None = None
    site: str = ""
    classes: frozenset[str] = frozenset()
    bins: frozenset[str] = frozenset()


class Strata:
    """Groups with their counts of everything that parts are to share evenly.

    Attributes:
        names: groups in the order of `counts`, sorted.
        counts: (groups, features), cases that have the feature; every case has the first one.
        regions: region, or class of a target, to the numbers of the groups that have it.
    """

    def __init__(self, facts: Sequence[Facts]) -> None:
        self.names = sorted({fact.group for fact in facts})
        number = {name: index for index, name in enumerate(self.names)}
        features = _features(facts)
        column = {feature: index for index, feature in enumerate(sorted(set().union(*features)), start=1)}
        self.counts: NDArray[np.float64] = np.zeros((len(self.names), len(column) + 1))
        self.regions: dict[str, set[int]] = {}
        for fact, having in zip(facts, features):
            row = number[fact.group]
            self.counts[row, [0, *(column[feature] for feature in having)]] += 1
            for region in fact.regions | fact.classes:
                self.regions.setdefault(region, set()).add(row)

    def deal(self, chosen: Sequence[int], shares: Sequence[float], *, seed: str) -> list[list[int]]:
        """Deal groups out to parts so that each gets its share of every feature.

        The groups with the rarest features come first; each goes to the part where the squared shares, summed over
        parts and features, grow least.

        Args:
            chosen: numbers of the groups.
            shares: of the parts, relative.
            seed: of the order among groups that are alike.

        Returns:
            The numbers of the groups of each part, ascending.
        """
        counts = self.counts[list(chosen)]
        totals = counts.sum(axis=0)
        counts = counts[:, totals > 0] / totals[totals > 0]
        weights = np.ones(counts.shape[1])
        weights[0] = counts.shape[1]  # parts of the right size count as much as all the rest
        wanted = np.asarray(shares, dtype=float) / np.sum(shares)
        loads = np.zeros((len(wanted), counts.shape[1]))
        parts: list[list[int]] = [[] for _ in wanted]
        order = list(range(len(chosen)))
        random.Random(seed).shuffle(order)
        order.sort(key=lambda index: -round(float(counts[index].sum()), 9))
        for index in order:
            group = counts[index]
            part = int(np.argmin((2 * loads * group + group**2) @ weights / wanted))
            loads[part] += group
            parts[part].append(chosen[index])
        return [sorted(part) for part in parts]

    def cases(self, chosen: Sequence[int]) -> int:
        """Return the number of cases in some groups."""
        return int(self.counts[list(chosen), 0].sum())

    def subset(self, chosen: Sequence[int], share: float, *, seed: str) -> list[int]:
        """Return a stratified part of some groups, with at least one group for each region that any of them has."""
        part, rest = self.deal(chosen, (share, 1 - share), seed=seed) if share < 1 else (list(chosen), [])
        for region in sorted(self.regions, key=lambda name: (len(self.regions[name]), name)):
            holders = self.regions[region] & set(rest)
            if holders and not self.regions[region] & set(part):
                part.append(min(holders, key=lambda group: (self.counts[group, 0], group)))
                rest.remove(part[-1])
        if not part:
            part = [min(rest, key=lambda group: (self.counts[group, 0], group))]
        return sorted(part)


def _features(facts: Sequence[Facts]) -> list[set[tuple[str, str]]]:
    """Return the features of every case: regions that it has or lacks, bin of its size, site, strata of targets."""
    regions = frozenset().union(*(fact.regions for fact in facts))
    sizes = [fact.size for fact in facts if fact.size]
    edges = np.quantile(sizes, np.linspace(0, 1, SIZE_BINS + 1)[1:-1]) if sizes else np.zeros(0)
    found = []
    for fact in facts:
        having = {("region", name) for name in fact.regions} | {("lacks", name) for name in regions - fact.regions}
        if fact.size is not None:
            having.add(("size", str(int(np.searchsorted(edges, fact.size))) if fact.size else "none"))
        if fact.site:
            having.add(("site", fact.site))
        having |= {("target", name) for name in fact.classes | fact.bins}
        found.append(having)
    return found
