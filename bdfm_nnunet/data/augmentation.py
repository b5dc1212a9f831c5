"""Augmentation of crops. Random draws and arithmetic are separate functions, so that each can be replayed.

Mirroring is carried out on the training device, where it costs nothing; rotation and scaling by whoever reads a crop,
which then reads just the box of voxels that the turned crop needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Matrix = npt.NDArray[np.float64]


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """Reverse axes of images.

    Args:
        images: (B, C, *spatial), on any device.
        flips: (B, axes) on the CPU, True where an axis of an image is to be reversed.

    Returns:
        The images, in new memory.
    """
    axes = [[axis + 1 for axis, chosen in enumerate(row) if chosen] for row in flips.tolist()]
    return torch.stack([image.flip(row) if row else image for image, row in zip(images, axes, strict=True)])


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """Rotation and scaling, by default as often and as far as in nnU-Net's training, but in mm instead of voxels.

    Attributes:
        spacing: mm a voxel along the three axes.
        p_rotation: share of crops that are turned, about all three axes.
        degrees: the largest angle about an axis.
        p_scaling: share of crops that are scaled, all axes alike.
        scaling: least and largest factor by which the crop's extent in the volume is multiplied; above 1 it shows more
            of the volume, everything in it smaller.
    """

    spacing: Sequence[float]
    p_rotation: float = 0.2
    degrees: float = 30.0
    p_scaling: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)

    def draw(self, rng: np.random.Generator) -> Matrix | None:
        """Draw a matrix (3, 3) from voxels of the crop to voxels of the volume, both from the centre, or None."""
        turned, scaled = rng.random(2) < (self.p_rotation, self.p_scaling)
        if not (turned or scaled):
            return None
        matrix = np.eye(3) * (rng.uniform(*self.scaling) if scaled else 1.0)
        for axis in range(3) if turned else ():
            matrix = matrix @ _rotation(axis, np.deg2rad(rng.uniform(-self.degrees, self.degrees)))
        spacing = np.asarray(self.spacing)
        return matrix * spacing / spacing[:, None]


def _rotation(axis: int, angle: float) -> Matrix:
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def source_size(matrix: Matrix, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the voxels of the box about a crop's centre from which `resampled` makes the crop.

    The box has its centre where the crop has it: sizes are both even or both odd.
    """
    reach = np.abs(matrix) @ (np.asarray(patch_size) - 1)
    sizes = [ceil(round(extent, 6)) + 2 for extent in reach]
    return tuple(size + (size - patch) % 2 for size, patch in zip(sizes, patch_size, strict=True))


def resampled(source: Tensor, matrix: Matrix, patch_size: Sequence[int]) -> Tensor:
    """Read a crop by trilinear interpolation from the box about its centre.

    Args:
        source: (C, *source_size(matrix, patch_size)).
        matrix: from voxels of the crop to voxels of the source, both from the centre.
        patch_size: of the crop.

    Returns:
        (C, *patch_size).
    """
    # torch counts axes from the last and goes from -1 to 1 along each
    half_patch, half_source = (np.asarray(size) - 1 for size in (patch_size, source.shape[1:]))
    scaled = (matrix * half_patch / half_source[:, None])[::-1, ::-1]
    theta = torch.from_numpy(np.concatenate([scaled, np.zeros((3, 1))], axis=1)).to(source.dtype)
    grid = functional.affine_grid(theta[None], [1, 1, *patch_size], align_corners=True)
    return functional.grid_sample(source[None], grid, align_corners=True)[0]
