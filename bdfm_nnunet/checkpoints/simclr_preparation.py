"""Images as 3D-Neuro-SimCLR expects them: the crop of its template, standardised inside the brain.

Kaczmarek et al. 2025, https://arxiv.org/abs/2509.10620. The scans were skull-stripped, bias-corrected and registered
rigidly to the MNI152 template (ICBM 2009c, 1 mm) by turboprep before.
"""

import torch
from torch import Tensor

TEMPLATE = (193, 229, 193)
"""Voxels (z, y, x) of the template."""
_CROP = (slice(10, 160), slice(19, 211), slice(1, None))
_EPSILON = 1e-12  # under the root, as published
_INSIDE = 0.5


def crop_template(volume: Tensor) -> Tensor:
    """Cut volumes on the template's grid to the 150 x 192 x 192 voxels that the model sees.

    Args:
        volume: (..., 193, 229, 193) in the order (z, y, x), as nnU-Net and SimpleITK give arrays; those of nibabel are
            (x, y, z) and have to be transposed, which their shape does not show.

    Returns:
        A view (..., 150, 192, 192).

    Raises:
        ValueError: another size.

    Example:
        >>> crop_template(torch.zeros(1, 193, 229, 193)).shape
        torch.Size([1, 150, 192, 192])
    """
    if tuple(volume.shape[-3:]) != TEMPLATE:
        raise ValueError(
            f"a volume of shape {tuple(volume.shape)}, expected (..., {', '.join(map(str, TEMPLATE))}): register it "
            "to the MNI152 template (ICBM 2009c, 1 mm) and give it as (z, y, x)"
        )
    return volume[(..., *_CROP)]


def standardise_in_brain(images: Tensor, mask: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1 inside its brain mask, and 0 outside.

    z = (x - mean) / sqrt(variance + 1e-12) with the population variance, in two passes and double precision: a mean far
    above the deviation does not spoil it, as it does in the published code.

    Args:
        images: (..., D, H, W); each volume is standardised alone.
        mask: of the same shape or one that broadcasts to it; voxels above 0.5 are inside, so probabilities, 0 and 255,
            and truth values all do. An empty mask gives zeros.

    Returns:
        (..., D, H, W) float32, or float64 for float64 images.

    Example:
        >>> images = torch.tensor([[[1e4 - 0.002, 1e4 + 0.002, 7.0]]], dtype=torch.float64)
        >>> standardise_in_brain(images, torch.tensor([[[1, 1, 0]]])).round(decimals=3)
        tensor([[[-1.,  1.,  0.]]], dtype=torch.float64)
    """
    inside = (mask > _INSIDE).expand(images.shape)
    values = torch.where(inside, images.double(), 0)
    axes = tuple(range(max(images.ndim - 3, 0), images.ndim))
    count = inside.sum(axes, keepdim=True).clamp_min(1)
    centred = torch.where(inside, values - values.sum(axes, keepdim=True) / count, 0)
    variance = centred.square().sum(axes, keepdim=True) / count
    return (centred / (variance + _EPSILON).sqrt()).to(torch.promote_types(images.dtype, torch.float32))


def prepare_for_simclr(volume: Tensor, mask: Tensor) -> Tensor:
    """Prepare a registered volume for `load_simclr_reference(...).features`: crop it, then standardise it in the brain.

    Args:
        volume: (193, 229, 193) in the order (z, y, x).
        mask: brain mask of the same shape.

    Returns:
        (1, 1, 150, 192, 192), a batch of one image.

    Raises:
        ValueError: another size.

    Example:
        >>> prepare_for_simclr(torch.rand(193, 229, 193), torch.ones(193, 229, 193)).shape
        torch.Size([1, 1, 150, 192, 192])
    """
    return standardise_in_brain(crop_template(volume), crop_template(mask))[None, None]
