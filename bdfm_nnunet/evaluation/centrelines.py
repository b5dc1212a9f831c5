"""Overlap and connectedness of vessels and other thin, branched structures: Dice and clDice.

clDice (Shit et al. 2021, https://arxiv.org/abs/2003.07934) compares centrelines S(.) with masks: precision
|S(prediction) and reference| / |S(prediction)|, sensitivity |S(reference) and prediction| / |S(reference)|, and their
harmonic mean. A missing piece of a thin branch costs as much as one of a thick trunk of the same length.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from skimage.morphology import skeletonize

from bdfm_nnunet.evaluation.case_scores import Case, RegionScores
from bdfm_nnunet.evaluation.challenge_rules import Task
from bdfm_nnunet.evaluation.components import components
from bdfm_nnunet.evaluation.nearest import Mask
from bdfm_nnunet.evaluation.voxelwise import dice

# of two opposite neighbours only one
_HALF = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
_NAMES = ("dice", "cldice", "centreline_precision", "centreline_sensitivity", "cldice_length")


def centreline(mask: Mask) -> Mask:
    """Return the voxels of the centrelines of a mask (x, y, z), thinned as by Lee et al. 1994.

    Lee, Kashyap & Chu 1994, https://doi.org/10.1006/cgip.1994.1042, as scikit-image has it. The thinning knows no
    voxel size. Of some compact pieces it leaves nothing, such as a cube of 2 voxels a side: they have their middle.

    Example:
        >>> mask = np.zeros((20, 9, 9), dtype=bool)
        >>> mask[2:18, 3:6, 3:6] = True
        >>> line = centreline(mask)
        >>> bool(line[4:16, 4, 4].all()), int(line.sum()) <= 16
        (True, True)
    """
    thin: Mask = skeletonize(np.ascontiguousarray(mask), method="lee").astype(bool)
    pieces = components(mask)
    for number in np.setdiff1d(pieces[mask], pieces[thin]):
        places = np.argwhere(pieces == number)
        thin[tuple(places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()])] = True
    return thin


def lengths(line: Mask, *, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the length in mm that each voxel of a centreline (x, y, z) stands for, and 0 elsewhere.

    It is half of the distances to its neighbours (face, edge or corner) on the line; for a voxel without any, the mean
    side of a voxel.

    Example:
        >>> line = np.zeros((5, 3, 3), dtype=bool)
        >>> line[1:4, 1, 1] = True
        >>> lengths(line, spacing=(2, 1, 1))[:, 1, 1]
        array([0., 1., 2., 1., 0.])
    """
    found = np.zeros(line.shape)
    for step in _HALF:
        here = tuple(slice(max(0, -s), size - max(0, s)) for s, size in zip(step, line.shape, strict=True))
        there = tuple(slice(max(0, s), size - max(0, -s)) for s, size in zip(step, line.shape, strict=True))
        half = 0.5 * float(np.linalg.norm(np.multiply(step, spacing)))
        joined = line[here] & line[there]
        found[here] += half * joined
        found[there] += half * joined
    found[line & (found == 0)] = float(np.mean(spacing))
    return found


def cldice(reference: Mask, prediction: Mask) -> float:
    """Return the centreline Dice of two masks (x, y, z) as published, which counts the voxels of the centrelines.

    Returns:
        The score; 0 if one mask is empty, NaN if both are.

    Example:
        >>> reference = np.zeros((24, 9, 9), dtype=bool)
        >>> reference[2:22, 3:6, 3:6] = True
        >>> broken = reference.copy()
        >>> broken[8:16] = False  # a gap of two fifths
        >>> round(cldice(reference, broken), 2)
        0.75
    """
    return _centrelines(reference, prediction, (1.0, 1.0, 1.0))["cldice"]


def vessel_scores(case: Case, task: Task) -> dict[str, RegionScores]:
    """Score every region of a case as a tree of vessels.

    Args:
        case: reference and prediction.
        task: has no effect: all data is scored alike.

    Example:
        >>> labels = np.zeros((24, 12, 12), dtype=np.uint8)
        >>> labels[2:22, 4:7, 4:7] = 1
        >>> case = Case.cut(labels, labels, spacing=(0.5, 0.3, 0.3), regions={"artery": (1,)})
        >>> scores = vessel_scores(case, Task())["artery"].scores
        >>> scores["dice"], scores["cldice"], scores["cldice_length"]
        (1.0, 1.0, 1.0)
    """
    return {region: RegionScores(_region(*case.masks(values), case.spacing)) for region, values in case.regions.items()}


def _region(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> dict[str, float]:
    return {"dice": _overlap(reference, prediction), **_centrelines(reference, prediction, spacing)}


def _overlap(reference: Mask, prediction: Mask) -> float:
    return dice(reference, prediction) if reference.any() or prediction.any() else np.nan


def _centrelines(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> dict[str, float]:
    present = bool(reference.any()), bool(prediction.any())
    if not all(present):
        return dict.fromkeys(_NAMES[1:], 0.0 if any(present) else np.nan)
    lines = centreline(prediction), centreline(reference)
    counted = [_inside(line.astype(float), mask) for line, mask in zip(lines, (reference, prediction), strict=True)]
    measured = [
        _inside(lengths(line, spacing=spacing), mask) for line, mask in zip(lines, (reference, prediction), strict=True)
    ]
    shares = (_harmonic(*counted), *counted, _harmonic(*measured))
    return dict(zip(_NAMES[1:], shares, strict=True))


def _inside(weights: NDArray[np.float64], mask: Mask) -> float:
    return float(weights[mask].sum() / weights.sum())


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
