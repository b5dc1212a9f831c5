"""Features of training and held-out cases on the scale of the training cases.

Shapes: features (N, D).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Standardised:
    """Features of training and held-out cases on the scale of the training cases.

    Both are turned into the space that the training cases span, in which all models here give the same answers up to
    rounding and the number of features no longer matters.
    """

    train: Array
    test: Array


def standardise(train: Array, test: Array, *, rotate: bool) -> Standardised:
    """Return features with the mean 0 and the deviation 1 of the training cases, divided by the root of D.

    Args:
        train: (N, D).
        test: (M, D).
        rotate: return coordinates along the principal axes of the training cases, at most N. Linear models with a ridge
            penalty do not change by that; what the training cases do not span has no weight in them.
    """
    mean, spread = train.mean(0), train.std(0)
    varies = spread > 1e-7 * np.maximum(np.abs(mean), 1e-12)
    scale = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0) / np.sqrt(max(int(varies.sum()), 1))
    train, test = (train - mean) * scale, (test - mean) * scale
    if rotate and train.shape[1] > len(train):
        axes = np.linalg.svd(train, full_matrices=False)[2]
        train, test = train @ axes.T, test @ axes.T
    return Standardised(train, test)
