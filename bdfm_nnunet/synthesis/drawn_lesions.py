"""Drawing lesions into label maps: tumours that push the tissue outwards, and cavities that draw it inwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.data.phantom import (
    ENHANCING,
    NECROSIS,
    OEDEMA,
    Field,
    Grid,
    Lesion,
    draw_lesion,
    lesion_centre,
    paint_lesion,
)
from bdfm_nnunet.synthesis.deformation import sampled
from bdfm_nnunet.synthesis.tissue_tables import BRAIN, LESION_PARTS

_SKIN = 15.0
"""Tissue that lies less deep, in mm, moves less: the skull does not move at all."""
_RANK = np.array([0, 2, 1, 3, 4], dtype=np.uint8)
"""Where lesions meet, cavities win over enhancing tumour, then come necrosis and oedema."""
_CAVITY = 4


@dataclass(frozen=True)
class Growth:
    """A lesion and what it does to the tissue around it.

    Attributes:
        lesion: the lesion.
        cavity: whether its core is a cavity filled with fluid.
        push: radius, in mm, of the ball of tissue that it pushes out of its place; negative: that it draws in.
    """

    lesion: Lesion
    cavity: bool
    push: float


def draw_growths(rng: np.random.Generator, *, lesions: float, cavities: float) -> list[Growth]:
    """Draw the lesions of a head.

    Args:
        rng: the generator.
        lesions: share of the heads that have tumours, one or two.
        cavities: share of the heads that have a cavity.
    """
    tumours = int(rng.uniform() < lesions) * int(rng.choice([1, 2], p=[0.7, 0.3]))
    found = []
    for _ in range(tumours):
        lesion = draw_lesion(rng)
        found.append(Growth(lesion, False, float(rng.uniform(0.4, 0.85)) * lesion.core_mm))
    if rng.uniform() < cavities:
        lesion = replace(draw_lesion(rng), rim_mm=float(rng.uniform(0, 1.5)), oedema_mm=float(rng.uniform(0, 6)))
        found.append(Growth(lesion, True, -float(rng.uniform(0.3, 0.7)) * lesion.core_mm))
    return found


def with_lesions(
    codes: NDArray[np.uint8], grid: Grid, tissues: Sequence[str], growths: Sequence[Growth]
) -> NDArray[np.uint8]:
    """Return a label map with lesions, whose parts are the last codes of the tissues.

    Args:
        codes: the map.
        grid: its voxels.
        tissues: tissue per code; the last ones are `LESION_PARTS`.
        growths: the lesions.
    """
    brain = np.isin(codes, [code for code, tissue in enumerate(tissues) if tissue in BRAIN])
    if not growths or not brain.any():
        return codes
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    part, inside = codes[box], brain[box]
    small = Grid((part.shape[0], part.shape[1], part.shape[2]), grid.spacing)
    depth = ndimage.distance_transform_edt(inside, sampling=grid.spacing).astype(np.float32)
    centres = [lesion_centre(growth.lesion, _fractions(part, tissues), small) for growth in growths]
    for growth, centre in zip(growths, centres):
        part = sampled(part, small, source_points(small, centre, growth.push, np.clip(depth / _SKIN, 0, 1)))
    found = codes.copy()
    found[box] = np.where(inside, _painted(part, small, tissues, growths, centres), codes[box])
    return found


def source_points(grid: Grid, centre: Field, push: float, share: Field) -> Field:
    """Return where the tissue at each voxel was before a lesion moved it, mm from the centre of the grid, (3, x, y, z).

    Tissue keeps its volume where it moves freely: what was at radius r' is at radius r, and r^3 = r'^3 + push^3.

    Args:
        grid: the voxels.
        centre: of the lesion, mm.
        push: as in `Growth`.
        share: how freely each voxel moves, from 0 to 1.

    Example:
        >>> grid = Grid((9, 1, 1), (1.0, 1.0, 1.0))
        >>> source_points(grid, np.zeros(3, np.float32), 2.0, np.ones((9, 1, 1), np.float32))[0, 4:, 0, 0].round(2)
        array([0.  , 0.  , 0.  , 2.67, 3.83], dtype=float32)
    """
    points = np.stack(np.meshgrid(*grid.axes(), indexing="ij"))
    offsets = points - centre[:, None, None, None]
    radius = np.maximum(np.sqrt((offsets**2).sum(axis=0)), 1e-3)
    ratio = np.cbrt(np.maximum(1 - np.sign(push) * (abs(push) / radius) ** 3, 0))
    moved: Field = (points + offsets * (ratio - 1) * share).astype(np.float32)
    return moved


def _fractions(codes: NDArray[np.uint8], tissues: Sequence[str]) -> Field:
    """Return nothing, white, grey and fluid shares of each voxel, (4, x, y, z)."""
    groups: list[tuple[str, ...]] = [(), ("white", "deep"), ("grey",), ("fluid",)]
    table = np.array([[tissue in group for tissue in tissues] for group in groups], dtype=np.float32)
    return table[:, codes]


def _painted(
    codes: NDArray[np.uint8],
    grid: Grid,
    tissues: Sequence[str],
    growths: Sequence[Growth],
    centres: Sequence[Field],
) -> NDArray[np.uint8]:
    fractions = _fractions(codes, tissues)
    parts = np.zeros(codes.shape, dtype=np.uint8)
    for growth, centre in zip(growths, centres):
        painted = paint_lesion(growth.lesion, centre, fractions, grid)
        if growth.cavity:
            painted[painted == NECROSIS] = _CAVITY
        parts = np.where(_RANK[painted] > _RANK[parts], painted, parts)
    first = len(tissues) - len(LESION_PARTS)
    named = {NECROSIS: "necrosis", OEDEMA: "oedema", ENHANCING: "enhancing", _CAVITY: "cavity"}
    to_code = np.array([0, *(first + LESION_PARTS.index(named[value]) for value in sorted(named))], dtype=np.uint8)
    return np.where(parts > 0, to_code[parts], codes)
