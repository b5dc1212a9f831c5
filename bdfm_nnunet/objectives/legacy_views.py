"""The views of 3D-Neuro-SimCLR as its public code makes them, in its order.

Kaczmarek et al. 2025, https://arxiv.org/abs/2509.10620. A random box is stretched to the size of the whole image, then
flipped along the last axis, turned in the plane of the last two axes (after the stretching, so by another angle than
the anatomical one), shifted in intensity, which the standardisation at the end undoes, and raised to a power.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.intensity_changes import gamma_changed, standardised
from bdfm_nnunet.objectives.view_geometry import rotations

_LEAST_SIDES = (30 / 150, 40 / 192, 40 / 192)  # of the published crops of 150 x 192 x 192 voxels
_ANGLE, _SHIFT, _GAMMA = 0.785, 0.5, (0.5, 1.5)
_P_FLIP, _P_ROTATION, _P_INTENSITY = 0.5, 0.5, 0.8


def draw_legacy_views(batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw two published views per image.

    Args:
        batch: number of images.
        spatial: voxels per axis; the published least sides are taken as shares of them.
        generator: the only source of randomness.

    Returns:
        "corner" and "side" (B, 2, axes), whole voxels; "flip" (B, 2); "angle", "shift", "gamma" (B, 2), neutral where
        a part is not applied.

    Example:
        >>> drawn = draw_legacy_views(2, (24, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> drawn["side"].shape, drawn["angle"].shape
        (torch.Size([2, 2, 3]), torch.Size([2, 2]))
    """
    whole = torch.tensor(spatial)
    least = torch.tensor([max(round(s * share), 1) for s, share in zip(spatial, _LEAST_SIDES[-len(spatial) :])])

    def between(low: Tensor | float, high: Tensor | float, *shape: int) -> Tensor:
        return torch.rand(batch, 2, *shape, generator=generator) * (high - low) + low

    def sometimes(share: float, values: Tensor, neutral: float) -> Tensor:
        return torch.where(torch.rand(batch, 2, generator=generator) < share, values, neutral)

    side = between(least, whole + 1, len(spatial)).floor().minimum(whole).long()
    corner = (torch.rand(side.shape, generator=generator) * (whole - side + 1)).floor().minimum(whole - side).long()
    return {
        "corner": corner,
        "side": side,
        "flip": torch.rand(batch, 2, generator=generator) < _P_FLIP,
        "angle": sometimes(_P_ROTATION, between(-_ANGLE, _ANGLE), 0.0),
        "shift": sometimes(_P_INTENSITY, between(-_SHIFT, _SHIFT), 0.0),
        "gamma": sometimes(_P_INTENSITY, between(*_GAMMA), 1.0),
    }


def legacy_view(images: Tensor, drawn: Mapping[str, Tensor], *, spatial: Sequence[int] | None = None) -> Tensor:
    """Return one published view per image.

    Args:
        images: (B, C, *spatial); voxels other than 0 are the brain mask.
        drawn: `draw_legacy_views` of one view: (B, ...) each.
        spatial: voxels of a view per axis; by default those of the images.

    Returns:
        (B, C, *spatial), standardised in the brain and 0 outside.

    Example:
        >>> images = torch.rand(2, 1, 24, 32, 32)
        >>> drawn = draw_legacy_views(2, (24, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> first = {name: values[:, 0] for name, values in drawn.items()}
        >>> legacy_view(images, first, spatial=(12, 16, 16)).shape
        torch.Size([2, 1, 12, 16, 16])
    """
    spatial = images.shape[2:] if spatial is None else spatial
    brain = (images != 0).to(images.dtype)
    views = resized_box(images, drawn["corner"], drawn["side"], spatial)
    brain = resized_box(brain, drawn["corner"], drawn["side"], spatial, nearest=True)
    flip = drawn["flip"].reshape(-1, *[1] * (images.ndim - 1))
    views, brain = (torch.where(flip, each.flip(-1), each) for each in (views, brain))
    views, brain = turned(views, drawn["angle"]), turned(brain, drawn["angle"], nearest=True)
    views = views + drawn["shift"].to(views.dtype).reshape(flip.shape)
    return standardised(gamma_on_range(views, drawn["gamma"]), brain > 0)


def resized_box(
    images: Tensor, corners: Tensor, sides: Tensor, spatial: Sequence[int], *, nearest: bool = False
) -> Tensor:
    """Return a box of each image, stretched to a size by linear (or nearest) interpolation within the box.

    Args:
        images: (B, C, *any size).
        corners: (B, axes), first voxel of each box.
        sides: (B, axes), voxels per side.
        spatial: voxels per axis of the result.
        nearest: whether to take the nearest voxel instead.

    Example:
        >>> image = torch.arange(6.0).reshape(1, 1, 1, 6)
        >>> resized_box(image, torch.tensor([[0, 2]]), torch.tensor([[1, 2]]), (1, 4), nearest=True)
        tensor([[[[2., 2., 3., 3.]]]])
    """
    places = []
    for axis, size in enumerate(spatial):
        steps = torch.arange(size, device=images.device)
        corner, side = corners[:, axis, None], sides[:, axis, None]
        voxels = steps * side // size if nearest else ((steps + 0.5) * side / size - 0.5).clamp(min=0).minimum(side - 1)
        place = (2 * (voxels + corner) + 1) / images.shape[axis + 2] - 1
        shape = [len(images), *[1] * len(spatial)]
        shape[axis + 1] = size
        places.append(place.to(images.dtype).reshape(shape).expand(-1, *spatial))
    return _sampled(images, torch.stack(places[::-1], dim=-1), nearest=nearest)


def turned(images: Tensor, angles: Tensor, *, nearest: bool = False) -> Tensor:
    """Return images turned in the plane of the last two axes, in voxels; places outside take the nearest edge.

    Args:
        images: (B, C, *spatial).
        angles: (B,), radians.
        nearest: whether to take the nearest voxel instead of interpolating linearly.

    Example:
        >>> image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
        >>> turned(image, torch.tensor([torch.pi / 2]), nearest=True)
        tensor([[[[3., 1.],
                  [4., 2.]]]])
    """
    axes, half = images.ndim - 2, torch.tensor(images.shape[2:], device=images.device) / 2
    matrices = torch.eye(axes, device=images.device).repeat(len(images), 1, 1)
    matrices[:, -2:, -2:] = rotations(angles[:, None].float())
    theta = (matrices * half / half[:, None]).flip(1, 2)
    theta = functional.pad(theta, (0, 1)).to(images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = _sampled(images, grid, nearest=nearest)
    return torch.where((angles == 0).reshape(-1, *[1] * (images.ndim - 1)), images, moved)


def gamma_on_range(images: Tensor, gamma: Tensor) -> Tensor:
    """Return images raised to the power gamma on the range of each sample's values, the background's included.

    Args:
        images: (B, C, *spatial).
        gamma: (B,).

    Example:
        >>> gamma_on_range(torch.tensor([[[0.0, 5.0, 10.0]]]), torch.tensor([2.0])).round(decimals=3)
        tensor([[[ 0.0000,  2.5000, 10.0000]]])
    """
    axes = tuple(range(1, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    return gamma_changed((images - low) / (high - low + 1e-7), gamma) * (high - low) + low


def _sampled(images: Tensor, grid: Tensor, *, nearest: bool) -> Tensor:
    mode = "nearest" if nearest else "bilinear"
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
