"""Geometry of the views of contrastive learning: crop, flip, rotation and scaling in one interpolation."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Outside = Literal["zero", "edge"]


def rotations(angles: Tensor) -> Tensor:
    """Return rotation matrices, about one axis after the other.

    Args:
        angles: (..., 3) radians about the three axes, or (..., 1) in the plane.

    Returns:
        (..., 3, 3) or (..., 2, 2).

    Example:
        >>> rotations(torch.tensor([torch.pi / 6]))
        tensor([[ 0.8660, -0.5000],
                [ 0.5000, 0.8660]])
    """
    if angles.shape[-1] == 1:
        return _plane_rotation(angles[..., 0], (0, 1), axes=2)
    planes = ((1, 2), (0, 2), (0, 1))
    first, second, third = (_plane_rotation(angles[..., axis], planes[axis], axes=3) for axis in range(3))
    return first @ second @ third


def _plane_rotation(angle: Tensor, plane: tuple[int, int], *, axes: int) -> Tensor:
    first, second = plane
    matrix = torch.eye(axes, dtype=angle.dtype, device=angle.device).repeat(*angle.shape, 1, 1)
    matrix[..., first, first] = matrix[..., second, second] = angle.cos()
    matrix[..., first, second], matrix[..., second, first] = -angle.sin(), angle.sin()
    return matrix


def view_matrices(
    corners: Tensor,
    sides: Tensor,
    *,
    flips: Tensor,
    angles: Tensor,
    zooms: Tensor,
    spacing: Sequence[float],
    spatial: Sequence[int],
) -> Tensor:
    """Return the affine maps from places in views to places in images.

    Rotations are in mm: where voxels are anisotropic, anatomy is turned and not sheared.

    Args:
        corners: (..., axes), first corner of each box as a share of the image.
        sides: (..., axes), sides of each box as shares of the image.
        flips: (..., axes), True where a view is reversed.
        angles: (..., 3), or (..., 1) in the plane, radians about the box's centre.
        zooms: (...,), factors on the box's extent; above 1 a view shows more.
        spacing: mm per voxel and axis.
        spatial: voxels of an image per axis.

    Returns:
        (..., axes, axes + 1); places go from -1 to 1 from one face of an image to the other, axes in their order.

    Example:
        >>> whole = torch.zeros(1, 2), torch.ones(1, 2)
        >>> moves = dict(flips=torch.tensor([[True, False]]), angles=torch.zeros(1, 1), zooms=torch.ones(1))
        >>> view_matrices(*whole, **moves, spacing=(1.0, 1.0), spatial=(8, 8)).shape
        torch.Size([1, 2, 3])
    """
    half = torch.tensor([size * step / 2 for size, step in zip(spatial, spacing, strict=True)], dtype=sides.dtype)
    scales = sides * zooms[..., None] * torch.where(flips, -1.0, 1.0) * half
    turned = rotations(angles) * scales[..., None, :] / half[:, None]
    return torch.cat([turned, (2 * corners + sides - 1)[..., None]], dim=-1)


def sampled(
    images: Tensor, matrices: Tensor, spatial: Sequence[int], *, outside: Outside = "zero", nearest: bool = False
) -> Tensor:
    """Return views of images by linear interpolation.

    Args:
        images: (B, C, *any size).
        matrices: (B, axes, axes + 1), see `view_matrices`.
        spatial: voxels of a view per axis.
        outside: value of places outside of the image: 0, or that at the nearest edge.
        nearest: take the value of the nearest voxel instead, for labels.

    Returns:
        (B, C, *spatial).

    Example:
        >>> image = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> flip = torch.tensor([[[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]])
        >>> sampled(image, flip, (4, 4))[0, 0, 0]
        tensor([3., 2., 1., 0.])
    """
    # torch counts axes from the last
    theta = torch.cat([matrices[..., :-1].flip(-1, -2), matrices[..., -1:].flip(-2)], dim=-1).to(images.dtype)
    grid = functional.affine_grid(theta, [*images.shape[:2], *spatial], align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    views = functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
    if outside == "edge":
        return views
    return views.masked_fill((grid.abs() > 1 + 1e-5).any(-1)[:, None], 0)
