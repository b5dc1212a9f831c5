"""How well a reconstruction keeps detail and edges: HFEN and edge PSNR.

Shapes: images (B, C, *spatial), in any number of axes; masks are boolean and per voxel (B, *spatial), True = masked;
spacing is the voxel size in mm in the order of the axes, 1 mm where it is None. Scores are (B,), means over channels.
With a mask, a prediction is judged on its masked voxels alone: the visible ones are taken from the target.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, full_precision, millimetres
from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.metrics import difference, intensity_range

Spacing = Sequence[float] | None


def hfen(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, *, spacing: Spacing = None, sigma: float = 1.5
) -> Tensor:
    """Return the high-frequency error norm: 0 for a perfect reconstruction, about 1 for one without any detail.

    HFEN (Ravishankar & Bresler 2011, https://doi.org/10.1109/TMI.2010.2090538) is the norm of the difference of two
    images after a Laplacian of Gaussian of 15 voxels and sigma 1.5 voxels. Here it is normalised, as is usual:
    ||LoG(prediction) - LoG(target)||_2 / ||LoG(target)||_2. The filter has as many axes as the image, reaches 14/3 of
    sigma to each side (7 voxels of 1 mm), sums to zero, and takes voxels outside the image for copies of its border.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial), True = masked; both norms are over the masked voxels.
        spacing: voxel size in mm.
        sigma: of the Gaussian, in mm.

    Returns:
        (B,); NaN where the target has no detail at all.

    Example:
        >>> target = torch.rand(1, 1, 24, 24, 24)
        >>> flat = target.mean().expand_as(target)
        >>> hfen(target, target), hfen(flat, target).round(decimals=4)
        (tensor([0.]), tensor([1.]))
    """
    error, original = difference(prediction, target, mask)
    kept_voxels = 1.0 if mask is None else mask.unsqueeze(1).flatten(2)
    norms = [
        (laplacian_of_gaussian(image, spacing=spacing, sigma=sigma).flatten(2).square() * kept_voxels).sum(-1).sqrt()
        for image in (error, original)
    ]
    detail = norms[1] > 1e-6 * original.flatten(2).norm(dim=-1)  # below: rounding of a constant image
    return torch.where(detail, norms[0] / norms[1], math.nan).mean(1)


def laplacian_of_gaussian(images: Tensor, *, spacing: Spacing = None, sigma: float = 1.5) -> Tensor:
    """Return images (B, C, *spatial) after a Laplacian of Gaussian, in intensity per mm2.

    The filter of `hfen`: a sum over the axes of the second derivative along it and Gaussians along the others.

    Args:
        images: (B, C, *spatial).
        spacing: voxel size in mm.
        sigma: of the Gaussian, in mm.

    Example:
        >>> ramp = torch.arange(32.0).reshape(1, 1, 1, 32).expand(1, 1, 32, 32)
        >>> bool(laplacian_of_gaussian(ramp)[..., 16].abs().max() < 1e-5)  # no curvature away from the border
        True
    """
    images = at_least_single(images)
    smooth, sharp = images, torch.zeros_like(images)
    for axis, step in enumerate(millimetres(images.shape[2:], spacing), start=2):
        gaussian, curvature = _filters(images.shape[axis], sigma / step, step, images.dtype, images.device)
        # so far `sharp` is the sum over the axes seen, `smooth` the Gaussian along all of them
        with full_precision(images.device):
            sharp = _along(sharp, gaussian, axis) + _along(smooth, curvature, axis)
            smooth = _along(smooth, gaussian, axis)
    return sharp


def _along(images: Tensor, matrix: Tensor, axis: int) -> Tensor:
    return (images.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


@kept(maxsize=64)
def _filters(size: int, sigma: float, step: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a Gaussian and its second derivative per mm2 as matrices (size, size), for voxels of `step` mm."""
    reach = max(round(sigma * 14 / 3), 1)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    gaussian = torch.exp(-0.5 * (places / sigma).square())
    gaussian = gaussian / gaussian.sum()
    curvature = gaussian * ((places / sigma).square() - 1)
    curvature = curvature - curvature.sum() * gaussian  # a constant image has none,
    curvature = (
        curvature * 2 / (curvature * (places * step).square()).sum()
    )  # and that of x^2 is 2, for thick slices too
    rows = torch.arange(size)[:, None].expand(size, len(places))
    columns = (rows + places.long()).clamp(0, size - 1)
    matrices = (
        torch.zeros(size, size, dtype=torch.float64).index_put_(
            (rows, columns), kernel.expand(size, -1), accumulate=True
        )
        for kernel in (gaussian, curvature)
    )
    first, second = (matrix.to(dtype).to(device) for matrix in matrices)
    return first, second


def edge_psnr(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, *, spacing: Spacing = None, share: float = 0.1
) -> Tensor:
    """Return the peak signal-to-noise ratio on voxels at edges of the target, in dB.

    Edges are the `share` of the voxels of each image and channel where the gradient of the target (central differences
    per mm) is largest, and not zero. PSNR is 10 log10(range^2 / MSE), with the intensity range of the whole target as
    in `metrics.masked_psnr`; the visible part of an image does not count.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial), True = masked; edges are found in the whole target and scored where masked.
        spacing: voxel size in mm.
        share: of the voxels that are edges.

    Returns:
        (B,) in dB; NaN where no edge is masked or the target has none.

    Example:
        >>> target = torch.zeros(1, 1, 16, 16)
        >>> target[..., 8:] = 1
        >>> prediction = target.clone()
        >>> prediction[..., 8] = 0.9  # one of the two columns at the edge
        >>> edge_psnr(prediction, target)
        tensor([23.0103])
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a share of the voxels above 0, at most 1")
    error, original = difference(prediction, target, mask)
    edges = _edges(original, millimetres(original.shape[2:], spacing), share)
    if mask is not None:
        edges = edges & mask.unsqueeze(1).flatten(2)
    mse = (error.flatten(2).square() * edges).sum(-1) / edges.sum(-1)  # 0 / 0 is NaN
    return (10 * torch.log10(intensity_range(original).square() / mse.clamp_min(1e-12))).mean(1)


def _edges(images: Tensor, steps: Sequence[float], share: float) -> Tensor:
    """Return the voxels with the largest gradients, boolean (B, C, voxels)."""
    squares = torch.zeros_like(images)
    for axis, step in enumerate(steps, start=2):
        if images.shape[axis] > 1:
            squares += torch.gradient(images, spacing=step, dim=axis)[0].square()
    gradients = squares.flatten(2)
    voxels = gradients.shape[-1]
    least = gradients.kthvalue(voxels - max(round(share * voxels), 1) + 1, dim=-1, keepdim=True).values
    return (gradients >= least) & (gradients > 0)
