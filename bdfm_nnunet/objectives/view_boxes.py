"""Boxes of the views of contrastive learning: how much of an image each shows, and how much two of them share."""

import torch
from torch import Tensor

_HALVINGS = 40


def draw_boxes(
    batch: int, axes: int, *, least_share: float, least_overlap: float, together: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw two boxes per image, all sides of a box alike.

    The share of the volume is uniform from `least_share` to 1. A second box that overlaps the first too little is
    moved towards it, just as far as needed; this ends for every draw, unlike drawing until a pair fits.

    Args:
        batch: number of images.
        axes: number of spatial axes.
        least_share: least volume of a box, as a share of the image.
        least_overlap: least shared volume of two boxes, as a share of the smaller one.
        together: whether both boxes are the same.
        generator: the only source of randomness.

    Returns:
        Corners and sides, (B, 2, axes) each, as shares of the image's sides, in double precision.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> corners, sides = draw_boxes(
        ...     100, 3, least_share=0.5, least_overlap=0.6, together=False, generator=generator
        ... )
        >>> bool((sides.prod(-1) >= 0.5).all()), bool((overlap(corners, sides) >= 0.6).all())
        (True, True)
    """
    shares = torch.rand(batch, 2, 1, generator=generator, dtype=torch.float64) * (1 - least_share) + least_share
    places = torch.rand(batch, 2, axes, generator=generator, dtype=torch.float64)
    sides = (shares ** (1 / axes)).expand(batch, 2, axes).contiguous()
    corners = places * (1 - sides)
    if together:
        return corners[:, :1].expand_as(corners).contiguous(), sides[:, :1].expand_as(sides).contiguous()
    return _moved(corners, sides, least_overlap), sides


def overlap(corners: Tensor, sides: Tensor) -> Tensor:
    """Return the volume that two boxes share, as a share of the smaller one, (B,).

    Args:
        corners: (B, 2, axes).
        sides: (B, 2, axes).

    Example:
        >>> corners = torch.tensor([[[0.0, 0.0], [0.25, 0.0]]])
        >>> overlap(corners, torch.full((1, 2, 2), 0.5))
        tensor([0.5000])
    """
    ends = corners + sides
    shared = (ends.amin(1) - corners.amax(1)).clamp(min=0).prod(-1)
    return shared / sides.prod(-1).amin(1)


def _moved(corners: Tensor, sides: Tensor, least_overlap: float) -> Tensor:
    """Return the corners after moving each second box towards the first until they overlap enough.

    With its centre on that of the first, or as near as the image allows, one box lies within the other. On the way
    there the overlap never falls.
    """
    first, second = corners.unbind(1)
    nested = (first + (sides[:, 0] - sides[:, 1]) / 2).clamp(min=0).minimum(1 - sides[:, 1])
    low, high = torch.zeros(len(corners), 1, dtype=corners.dtype), torch.ones(len(corners), 1, dtype=corners.dtype)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = overlap(torch.stack([first, second.lerp(nested, middle)], 1), sides)[:, None] >= least_overlap
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    stays = overlap(corners, sides)[:, None] >= least_overlap
    return torch.stack([first, torch.where(stays, second, second.lerp(nested, high))], 1)
