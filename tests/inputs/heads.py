"""Made-up heads in milliseconds: an egg of tissues in two contrasts, with or without a skull around it."""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE, SPACING = (30, 36, 26), 1.0
CONTRASTS = {"t1": (0.3, 0.7, 1.0), "t2": (1.6, 0.8, 0.55)}
"""Brightness of fluid, grey and white matter."""

Image = NDArray[np.float32]


def head(number: int, *, skull: bool = False) -> dict[str, Image]:
    """Return the two contrasts of a head; the same number gives the same one with and without its skull."""
    rng = np.random.default_rng(number)
    axes = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in SHAPE), indexing="ij")
    x, y, z = (axis - shift for axis, shift in zip(axes, rng.normal(0, 0.7, 3)))
    half = np.array([9.0, 12.0, 8.0]) * rng.normal(1, 0.03, 3)
    pointed = 1 + 0.25 * y / half[1]  # narrow in front, so that front and back differ
    depth = np.sqrt((x / half[0] * pointed) ** 2 + (y / half[1]) ** 2 + ((z + 0.08 * y) / half[2] + 0.1) ** 2)
    tissue = np.select([depth > 0.9, depth > 0.7, np.hypot(x / 2.5, (y - 2) / 5) + np.abs(z - 1) / 3 < 1], [0, 1, 0], 2)
    images = {}
    for name, levels in CONTRASTS.items():
        jittered = np.array(levels) * np.exp(rng.normal(0, 0.04, 3))
        image = jittered[tissue] + rng.normal(0, 0.03, SHAPE)
        scalp = 1.1 if name == "t1" else 0.7
        outside = np.where((depth > 1.15) & (depth < 1.35), scalp, 0.05) * np.abs(1 + rng.normal(0, 0.1, SHAPE))
        images[name] = (rng.uniform(200, 800) * np.where(depth < 1, image, outside * skull)).astype(np.float32)
    return images


def save(folder: Path, case: str, images: list[Image], *, affine: NDArray[np.float64] | None = None) -> None:
    """Write the channels of a case as nnU-Net names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for channel, image in enumerate(images):
        grid = np.diag([SPACING] * 3 + [1.0]) if affine is None else affine
        nib.save(nib.Nifti1Image(image, grid), folder / f"{case}_{channel:04d}.nii.gz")
