"""A head of 30 mm: skin, skull, fluid, grey and white matter, two ventricles; axes towards left, back and top."""

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.synthesis.head_maps import HeadMap

SHAPE = (30, 32, 28)
LABELS = (0, 2, 3, 4, 24, 41, 42, 43, 511, 515)


def tiny_labels(seed: int = 0) -> NDArray[np.int16]:
    sizes = np.random.default_rng(seed).uniform(0.9, 1.0, 3)
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    radius = np.sqrt(np.sum([(axis / size) ** 2 for axis, size in zip(axes, sizes)], axis=0))
    labels = np.zeros(SHAPE, np.int16)
    for label, size in ((511, 13), (515, 12), (24, 11), (3, 10), (2, 8), (4, 3)):
        labels[radius < size] = label
    for left, right in ((3, 42), (2, 41), (4, 43)):
        labels[(axes[0] < 0) & (labels == left)] = right
    return labels


def tiny_head(seed: int = 0) -> HeadMap:
    codes = np.searchsorted(LABELS, tiny_labels(seed)).astype(np.uint8)
    return HeadMap("tiny", codes, LABELS, (1.0, 1.0, 1.0), np.eye(4))
