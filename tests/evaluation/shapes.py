"""Masks that are the same everywhere: made of whole numbers alone."""

import numpy as np

SPACINGS = ((1.0, 1.0, 1.0), (0.9, 0.9, 3.0), (0.4375, 1.5, 2.25))


def blobs(rng, shape, number, largest=6):
    """Some balls, flattened or not, and a few single voxels."""
    grid = np.indices(shape)
    mask = np.zeros(shape, dtype=bool)
    for _ in range(number):
        centre, radius = rng.integers(0, shape), rng.integers(1, largest, size=3)
        mask |= sum(((g - c) * 60 // r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 3600
    mask.ravel()[rng.integers(0, mask.size, size=number)] = True
    return mask


def pair(seed):
    """Reference and prediction: some lesions alike, some displaced, some on one side only; and a spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(18, 34, size=3))
    common = blobs(rng, shape, int(rng.integers(1, 5)))
    first, second = (blobs(rng, shape, int(rng.integers(1, 3)), largest=4) for _ in range(2))
    moved = np.roll(common, rng.integers(-1, 2, size=3), axis=(0, 1, 2))
    return common | first, moved | second, SPACINGS[seed % len(SPACINGS)]
