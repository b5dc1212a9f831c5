"""Connected components of masks, joined if they lie close together or touch the same lesion of another tissue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.nearest import Mask

Numbers = NDArray[Any]
"""Integers; 0 is background."""
_NEIGHBOURS = tuple(step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) <= 2)


def _widened(mask: Mask, axis: int) -> Mask:
    wide = mask.copy()
    here, there = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
    here[1:] |= there[:-1]
    here[:-1] |= there[1:]
    return wide


def dilated(mask: Mask, iterations: int) -> Mask:
    """Return a mask (x, y, z) dilated `iterations` times by the 18 neighbours that share a face or an edge.

    That neighbourhood is the union of three flat squares, and a square is two steps along axes.

    Example:
        >>> mask = np.zeros((7, 7, 7), dtype=bool)
        >>> mask[3, 3, 3] = True
        >>> int(dilated(mask, 1).sum())  # the voxel and its 18 neighbours
        19
    """
    for _ in range(iterations):
        along_x, along_y = _widened(mask, 0), _widened(mask, 1)
        mask = _widened(along_x, 1) | _widened(along_x, 2) | _widened(along_y, 2)
    return mask


def components(mask: Mask) -> Numbers:
    """Return the connected components of a mask, numbered 1, 2, ...; 26 neighbours (face, edge or corner).

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[1:3, 1:3, 1:3] = mask[6:8, 6:8, 6:8] = True
        >>> int(components(mask).max())
        2
    """
    numbers: Numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    return numbers


@dataclass(frozen=True)
class Lesions:
    """Numbered lesions of a volume, stored as a list of their voxels.

    Attributes:
        places: flat index of every lesion voxel, ascending.
        numbers: lesion number of each of these voxels.
        zones: volume (x, y, z) of the dilated pieces; each piece is part of one lesion.
        table: lesion number of each piece, by the number of the piece.

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[1, 1, 1] = mask[4, 1, 1] = mask[8, 8, 8] = True
        >>> lesions = lesions_of(mask, dilation=1)  # the first two are joined
        >>> lesions.numbers.tolist()
        [1, 1, 2]
        >>> lesions.renumbered(np.array([0, 0, 5])).numbers.tolist()  # drop lesion 1, call lesion 2 lesion 5
        [5]
    """

    places: Numbers
    numbers: Numbers
    zones: Numbers
    table: Numbers

    @staticmethod
    def of(mask: Mask, zones: Numbers) -> "Lesions":
        """Label the voxels of a mask by the zones in which they lie."""
        places = np.flatnonzero(mask)
        numbers = zones.ravel()[places].astype(np.int64)
        return Lesions(places, numbers, zones, np.arange(int(zones.max(initial=0)) + 1))

    def renumbered(self, table: Numbers) -> "Lesions":
        """Return the lesions with number `table[i]` instead of `i`; lesions whose number becomes 0 are dropped."""
        numbers = table[self.numbers]
        kept = numbers > 0
        return replace(self, places=self.places[kept], numbers=numbers[kept], table=table[self.table])

    def volume(self, margin: int = 0) -> Numbers:
        """Return the volume (x, y, z) of lesion numbers, with `margin` empty voxels on every side."""
        volume = np.zeros([size + 2 * margin for size in self.zones.shape], dtype=np.int32)
        volume[tuple(axis + margin for axis in np.unravel_index(self.places, self.zones.shape))] = self.numbers
        return volume

    def zone_at(self, places: Numbers) -> Numbers:
        """Return the number of the lesion whose dilated pieces hold each voxel, given by flat index; 0 if none."""
        found: Numbers = self.table[self.zones.ravel()[places]]
        return found


def lesions_of(mask: Mask, *, dilation: int) -> Lesions:
    """Return the lesions of a mask: pieces that touch after `dilation` dilations are one lesion.

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[1, 1, 1] = mask[4, 1, 1] = True
        >>> [len(set(lesions_of(mask, dilation=n).numbers.tolist())) for n in (0, 1)]
        [2, 1]
    """
    return Lesions.of(mask, components(dilated(mask, dilation)))


def without_small(lesions: Lesions, largest: float) -> Lesions:
    """Return the lesions that have more than `largest` voxels.

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[1:4, 1:4, 1:4] = mask[8, 8, 8] = True
        >>> without_small(lesions_of(mask, dilation=0), 10).places.size
        27
    """
    sizes = np.bincount(lesions.numbers, minlength=len(lesions.table))
    return lesions.renumbered(np.where(sizes > largest, np.arange(len(sizes)), 0))


def touching(first: Lesions, second: Lesions) -> list[tuple[int, int]]:
    """Return the sorted pairs of lesion numbers of `first` and `second` with neighbouring voxels (face or edge).

    Example:
        >>> masks = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> masks[0, 1:4, 1:4, 1:4] = masks[1, 4:6, 1:4, 1:4] = masks[1, 8, 8, 8] = True
        >>> touching(lesions_of(masks[0], dilation=0), lesions_of(masks[1], dilation=0))
        [(1, 1)]
    """
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
    """Join lesions that touch the same lesion of a partner, one partner after the other.

    This follows the organisers' code exactly: nothing is joined if only one pair touches, and a lesion that touches
    several lesions of the partner joins the first of them.

    Example:
        >>> masks = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> masks[0, 1, 1, 1] = masks[0, 5, 1, 1] = True  # two lesions,
        >>> masks[1, 2:5, 1, 1] = True  # and one of another tissue between them
        >>> core, enhancing = (lesions_of(mask, dilation=0) for mask in masks)
        >>> len(set(joined_by(core, [enhancing]).numbers.tolist()))
        1
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
