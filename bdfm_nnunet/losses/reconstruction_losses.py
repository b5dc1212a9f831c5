"""Reconstruction losses of masked images.

Shapes: images (B, C, *spatial); masks are boolean grids of patches (B, *grid), True = masked.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, full_precision, patch_power, patchify
from bdfm_nnunet.masking import per_axis, upsample


def masked_mse(
    prediction: Tensor, target: Tensor, mask: Tensor, *, patch_size: int | Sequence[int] | None = None
) -> Tensor:
    """Return the mean squared error over the masked voxels.

    This is the loss of SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886) with squared instead of absolute
    differences: the sum of (prediction - target)^2 over the masked voxels, divided by their number.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *grid) of patches; True = masked.
        patch_size: voxels per axis of a patch; by default the image size divided by the grid.

    Returns:
        A scalar: the mean over masked voxels and channels.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import masked_mse
        >>> target = torch.zeros(1, 1, 4, 4)
        >>> mask = torch.tensor([[[True, False], [False, False]]])  # four patches, one of them masked
        >>> masked_mse(target + 0.5, target, mask)
        tensor(0.2500)
    """
    _check(prediction, target, mask, patch_size)
    factors = [size // count for size, count in zip(target.shape[2:], mask.shape[1:], strict=True)]
    weight = upsample(mask, factors).unsqueeze(1)
    error = (at_least_single(prediction) - at_least_single(target)).square()
    return (error * weight).sum() / (weight.sum() * target.shape[1]).clamp_min(1)


def focal_frequency_loss(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    patch_size: int | Sequence[int] = 4,
    alpha: float = 1.0,
    legacy: bool = False,
) -> Tensor:
    """Return the focal frequency loss of the masked patches.

    Focal frequency loss (Jiang et al. 2021, https://arxiv.org/abs/2012.12821) is the mean of w |dF|^2, where dF is the
    orthonormal DFT of prediction - target in one patch and channel, and w = |dF|^alpha / max |dF|^alpha. The maximum is
    taken over the patch and channel; no gradient flows through w. The DFT is linear, so one transform of the difference
    is enough.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *grid) of patches; True = masked.
        patch_size: voxels per axis of a patch.
        alpha: exponent of the weight; 0 gives the plain squared error.
        legacy: use BDFM's published code path: transform the channel and all spatial axes but the last, and count a
            patch for the whole batch as soon as it is masked in one sample.

    Returns:
        A scalar: the mean over masked patches, channels and frequencies.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.losses import focal_frequency_loss
        >>> target, mask = torch.rand(2, 1, 8, 8, 8), torch.ones(2, 2, 2, 2, dtype=torch.bool)
        >>> focal_frequency_loss(target + 0.5, target, mask)  # an error of one frequency: its square
        tensor(0.2500)
        >>> noise = torch.randn(2, 1, 8, 8, 8)  # an error spread over all frequencies weighs less
        >>> bool(focal_frequency_loss(target + noise, target, mask) < noise.square().mean())
        True
    """
    _check(prediction, target, mask, patch_size)
    with full_precision(target.device):
        difference = patchify(at_least_single(prediction) - at_least_single(target), patch_size)
        if legacy:
            return _legacy(difference, mask.flatten(1).any(0), alpha)
        return _corrected(difference, mask.flatten(1), alpha)


def _corrected(difference: Tensor, chosen: Tensor, alpha: float) -> Tensor:
    """Return the loss of patches (B, P, C, *patch), of which `chosen` (B, P) count."""
    power, count = patch_power(difference, difference.ndim - 3)
    weight = _focal_weight(power.detach(), power.detach().amax(-1, keepdim=True), alpha)
    per_patch = (power * weight) @ count / difference.shape[3:].numel()  # (B, P, C)
    return (per_patch * chosen.unsqueeze(-1)).sum() / (chosen.sum() * difference.shape[2]).clamp_min(1)


def _legacy(difference: Tensor, chosen: Tensor, alpha: float) -> Tensor:
    """Return the loss with the published transform.

    Args:
        difference: patches (B, P, C, *patch).
        chosen: boolean (P,), True where a patch is masked anywhere in the batch.
        alpha: exponent of the weight.
    """
    difference = difference[:, chosen]
    spectrum = torch.fft.fftn(difference, dim=tuple(range(2, difference.ndim - 1)), norm="ortho")
    power = spectrum.real.square() + spectrum.imag.square()
    peak = power.detach().amax(dim=tuple(range(3, power.ndim)), keepdim=True)
    return (_focal_weight(power.detach(), peak, alpha) * power).mean()


def _focal_weight(power: Tensor, peak: Tensor, alpha: float) -> Tensor:
    """Return (|dF| / max |dF|)^alpha from squared magnitudes; 0 where a patch has no error."""
    share = power / peak.clamp_min(torch.finfo(power.dtype).tiny)
    return share.sqrt() if alpha == 1 else share.pow(alpha / 2)


def _check(prediction: Tensor, target: Tensor, mask: Tensor, patch_size: int | Sequence[int] | None) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    spatial, grid = target.shape[2:], mask.shape[1:]
    if mask.dtype != torch.bool or len(mask) != len(target) or len(grid) != len(spatial):
        raise ValueError(f"the mask must be boolean (B, *grid), got {mask.dtype} {tuple(mask.shape)}")
    if patch_size is None:
        fits = all(size % count == 0 for size, count in zip(spatial, grid, strict=True))
    else:
        fits = tuple(spatial) == tuple(n * p for n, p in zip(grid, per_axis(patch_size, len(grid)), strict=True))
    if not fits:
        raise ValueError(f"a grid of {tuple(grid)} patches of {patch_size} does not fill images of {tuple(spatial)}")
