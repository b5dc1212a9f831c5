"""Connected components of masks, joined where they lie close to each other or touch the same other tissue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.nearest import Mask

Numbers = NDArray[Any]
"""Whole numbers; 0 is no lesion."""
_NEIGHBOURS = tuple(step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) <= 2)


def _widened(mask: Mask, axis: int) -> Mask:
    wide = mask.copy()
    here, there = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
    here[1:] |= there[:-1]
    here[:-1] |= there[1:]
    return wide


def dilated(mask: Mask, iterations: int) -> Mask:
    """A mask (x, y, z) grown `iterations` times by the neighbours that share a face or an edge (18 of them).

    That neighbourhood is the union of three flat squares, and a square is two steps along axes.
    """
    for _ in range(iterations):
        along_x, along_y = _widened(mask, 0), _widened(mask, 1)
        mask = _widened(along_x, 1) | _widened(along_x, 2) | _widened(along_y, 2)
    return mask


def components(mask: Mask) -> Numbers:
    """Numbers 1, 2, ... for the pieces of a mask, neighbours by face, edge or corner (26 of them)."""
    numbers: Numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    return numbers


@dataclass(frozen=True)
class Lesions:
    """Numbered lesions of a volume, kept as a list of their voxels.

    Attributes:
        places: flat index of every voxel of a lesion, ascending.
        numbers: number of its lesion.
        zones: volume (x, y, z) of the pieces as grown, each of them part of one lesion.
        table: number of the lesion by that of the piece.
    """

    places: Numbers
    numbers: Numbers
    zones: Numbers
    table: Numbers

    @staticmethod
    def of(mask: Mask, zones: Numbers) -> "Lesions":
        """The voxels of a mask, numbered like the zones in which they lie."""
        places = np.flatnonzero(mask)
        numbers = zones.ravel()[places].astype(np.int64)
        return Lesions(places, numbers, zones, np.arange(int(zones.max(initial=0)) + 1))

    def renumbered(self, table: Numbers) -> "Lesions":
        """With the number `table[i]` for `i`, and without the lesions whose number becomes 0."""
        numbers = table[self.numbers]
        kept = numbers > 0
        return replace(self, places=self.places[kept], numbers=numbers[kept], table=table[self.table])

    def volume(self, margin: int = 0) -> Numbers:
        """The numbers (x, y, z) where they lie, with `margin` empty voxels around."""
        volume = np.zeros([size + 2 * margin for size in self.zones.shape], dtype=np.int32)
        volume[tuple(axis + margin for axis in np.unravel_index(self.places, self.zones.shape))] = self.numbers
        return volume

    def zone_at(self, places: Numbers) -> Numbers:
        """Number of the lesion whose grown pieces hold a voxel, by flat index."""
        found: Numbers = self.table[self.zones.ravel()[places]]
        return found


def lesions_of(mask: Mask, *, dilation: int) -> Lesions:
    """Lesions of a mask: pieces become one lesion where they touch once all are dilated `dilation` times."""
    return Lesions.of(mask, components(dilated(mask, dilation)))


def without_small(lesions: Lesions, largest: float) -> Lesions:
    """Without the lesions that have at most `largest` voxels."""
    sizes = np.bincount(lesions.numbers, minlength=len(lesions.table))
    return lesions.renumbered(np.where(sizes > largest, np.arange(len(sizes)), 0))


def touching(first: Lesions, second: Lesions) -> list[tuple[int, int]]:
    """Sorted pairs of a number of `first` and one of `second` with neighbouring voxels (by face or edge)."""
    if not (first.places.size and second.places.size):
        return []
    others = second.volume(margin=1)
    strides = np.array([others.shape[1] * others.shape[2], others.shape[2], 1])
    centres = strides @ (np.stack(np.unravel_index(first.places, first.zones.shape)) + 1)
    base = int(second.numbers.max()) + 1
    codes: list[Numbers] = []
    for step in np.array(_NEIGHBOURS) @ strides:
        found = others.ravel()[centres + step]
        near = found > 0
        codes.append(np.unique(first.numbers[near] * base + found[near]))
    return [(int(code // base), int(code % base)) for code in np.unique(np.concatenate(codes))]


def joined_by(lesions: Lesions, partners: Sequence[Lesions]) -> Lesions:
    """Lesions that touch the same lesion of a partner become one, partner after partner.

    The organisers' rule to the letter: nothing happens where only one pair touches, and a lesion that touches several
    goes with the first of them.
    """
    for partner in partners:
        pairs = touching(lesions, partner)
        if len(pairs) > 1:
            lesions = lesions.renumbered(_groups(pairs, int(lesions.table.max())))
    return lesions


def _groups(pairs: Sequence[tuple[int, int]], last: int) -> Numbers:
    numbers: dict[int, int] = {}
    table = np.arange(last + 1)
    for _, partner in pairs:
        numbers.setdefault(partner, last + 1 + len(numbers))
    for lesion, partner in reversed(pairs):
        table[lesion] = numbers[partner]
    return table
