"""Whether probabilities of voxels are as often right as they say, and the temperature that makes them so.

Temperature scaling is that of Guo et al. 2017 (https://arxiv.org/abs/1706.04599): one number divides all logits. It is
fitted on voxels drawn from cases that the networks did not learn from.

Shapes: probabilities (K, ...) of a case, (K, N) of drawn voxels; K classes with the background, or regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.class_measures import expected_calibration_error

DOUBT = 0.01
"""A voxel is doubtful where anything but background is at least so probable."""
DRAWN = {True: 2000, False: 500}
"""Voxels of a case that are drawn: doubtful ones, and others."""
RANGE = (0.05, 20.0)
"""Temperatures that are looked at."""
_TINY = np.float32(1e-30)
_STEPS = 60
Values = NDArray[np.float32]


@dataclass(frozen=True)
class VoxelSample:
    """Voxels drawn from one or several cases.

    Attributes:
        probabilities: (K, N).
        truth: which channels are true, (K, N); of classes exactly one a voxel.
        weights: how many voxels each stands for, (N,).
        doubtful: see `DOUBT`, (N,).
        regions: whether the channels are regions that overlap.

    Example:
        >>> said, truth = np.array([[0.2], [0.8]]), np.array([[False], [True]])
        >>> one = VoxelSample(said, truth, np.ones(1), np.ones(1, bool), False)
        >>> VoxelSample.joined([one, one]).probabilities.shape
        (2, 2)
    """

    probabilities: Values
    truth: NDArray[np.bool_]
    weights: NDArray[np.float64]
    doubtful: NDArray[np.bool_]
    regions: bool

    @classmethod
    def joined(cls, samples: Sequence["VoxelSample"]) -> "VoxelSample":
        """Join samples of several cases."""
        return cls(
            np.concatenate([each.probabilities for each in samples], axis=1),
            np.concatenate([each.truth for each in samples], axis=1),
            np.concatenate([each.weights for each in samples]),
            np.concatenate([each.doubtful for each in samples]),
            samples[0].regions,
        )


def draw_voxels(
    probabilities: Values, truth: NDArray[np.bool_], known: NDArray[np.bool_], *, regions: bool, seed: int
) -> VoxelSample:
    """Draw voxels of a case, so that doubtful ones are not lost among the background.

    Args:
        probabilities: (K, ...).
        truth: which channels are true, (K, ...).
        known: voxels with a reference, (...).
        regions: whether the channels are regions that overlap.
        seed: of the drawing.

    Example:
        >>> certain, truth = np.array([[1.0, 0.4], [0.0, 0.6]], dtype=np.float32), np.eye(2, dtype=bool)
        >>> draw_voxels(certain, truth, np.ones(2, dtype=bool), regions=False, seed=0).doubtful.tolist()
        [True, False]
    """
    flat, right = probabilities.reshape(len(probabilities), -1), truth.reshape(len(truth), -1)
    doubtful = (flat if regions else flat[1:]).max(axis=0) >= DOUBT
    rng = np.random.default_rng(seed)
    chosen, weights = [], []
    for kind, most in DRAWN.items():
        found = np.flatnonzero((doubtful == kind) & known.ravel())
        drawn = found if len(found) <= most else rng.choice(found, most, replace=False)
        chosen.append(drawn)
        weights.append(np.full(len(drawn), len(found) / max(1, len(drawn))))
    at = np.concatenate(chosen)
    return VoxelSample(flat[:, at].copy(), right[:, at].copy(), np.concatenate(weights), doubtful[at], regions)


def sharpened(probabilities: Values, temperature: float, *, regions: bool) -> Values:
    """Return probabilities whose logits were divided by a temperature.

    The most probable class, and on which side of a half a region lies, stay what they are.

    Args:
        probabilities: (K, ...).
        temperature: above 0; above 1 they are less sure.
        regions: whether the channels are regions that overlap.

    Example:
        >>> [f"{value:.3f}" for value in sharpened(np.array([0.8, 0.2], dtype=np.float32), 2.0, regions=False)]
        ['0.667', '0.333']
    """
    power = np.float32(1 / temperature)
    raised: Values = np.maximum(probabilities, _TINY) ** power
    others: Values = np.maximum(np.float32(1) - probabilities, _TINY)
    shares: Values = raised / (raised + np.power(others, power) if regions else raised.sum(axis=0))
    return shares


def surprise(sample: VoxelSample, temperature: float) -> float:
    """Return the mean negative logarithm of the probability of what is true, over all voxels.

    Example:
        >>> said, truth = np.array([[0.5], [0.5]]), np.array([[True], [False]])
        >>> round(surprise(VoxelSample(said, truth, np.ones(1), np.ones(1, bool), False), 1.0), 4)
        0.6931
    """
    found = sharpened(sample.probabilities, temperature, regions=sample.regions)
    right = np.where(sample.truth, found, 1 - found) if sample.regions else np.where(sample.truth, found, 1.0)
    losses = -np.log(np.maximum(right, _TINY)).sum(axis=0)
    return float(np.average(losses, weights=sample.weights))


def fit_temperature(sample: VoxelSample) -> float:
    """Return the temperature of the smallest `surprise`, by golden section on its logarithm.

    Example:
        A network that says 99 % and is right in 9 of 10 voxels is too sure:

        >>> said = np.repeat(np.array([[0.01], [0.99]], dtype=np.float32), 10, axis=1)
        >>> truth = np.array([[True] + [False] * 9, [False] + [True] * 9])
        >>> found = fit_temperature(VoxelSample(said, truth, np.ones(10), np.ones(10, bool), False))
        >>> [f"{value:.2f}" for value in sharpened(said[:, 0], found, regions=False)]
        ['0.10', '0.90']
    """
    low, high = np.log(RANGE[0]), np.log(RANGE[1])
    golden = (np.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    values = [surprise(sample, float(np.exp(point))) for point in (left, right)]
    for _ in range(_STEPS):
        if values[0] <= values[1]:
            high, right = right, left
            left = high - golden * (high - low)
            values = [surprise(sample, float(np.exp(left))), values[0]]
        else:
            low, left = left, right
            right = low + golden * (high - low)
            values = [values[1], surprise(sample, float(np.exp(right)))]
    return float(np.exp((low + high) / 2))


def calibration_error(sample: VoxelSample, temperature: float = 1.0, *, only_doubtful: bool = False) -> float:
    """Return the expected calibration error: of the most probable class, or of the regions one by one.

    Args:
        sample: the voxels.
        temperature: applied before.
        only_doubtful: leave out the voxels that are background without doubt, which are nearly always right.

    Returns:
        From 0 to 1; NaN without voxels.

    Example:
        >>> said = np.repeat(np.array([[0.01], [0.99]], dtype=np.float32), 10, axis=1)
        >>> truth = np.array([[True] + [False] * 9, [False] + [True] * 9])
        >>> round(calibration_error(VoxelSample(said, truth, np.ones(10), np.ones(10, bool), False)), 3)
        0.09
    """
    chosen = sample.doubtful if only_doubtful else np.ones(len(sample.weights), dtype=bool)
    if not chosen.any():
        return float("nan")
    found = sharpened(sample.probabilities[:, chosen], temperature, regions=sample.regions)
    truth, weights = sample.truth[:, chosen], sample.weights[chosen]
    if sample.regions:
        said, right, weights = found.ravel(), truth.ravel(), np.tile(weights, len(found))
    else:
        said, right = found.max(axis=0), truth[found.argmax(axis=0), np.arange(found.shape[1])]
    errors = expected_calibration_error(right.astype(np.float64), said.astype(np.float64), weights[None])
    return float(errors[0])
