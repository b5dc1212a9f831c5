"""Reconstruction losses: functions of images (B, C, *spatial) and boolean patch grids (B, *grid), True = masked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single, full_precision, patch_power, patchify
from bdfm_nnunet.masking import per_axis, upsample


def masked_mse(
    prediction: Tensor, target: Tensor, mask: Tensor, *, patch_size: int | Sequence[int] | None = None
) -> Tensor:
    """Mean squared error over the masked voxels (SimMIM, Xie et al. 2022, with squares for absolute values).

    Args:
        prediction: (B, C, *spatial).
        target: like `prediction`.
        mask: boolean (B, *grid) of patches; True = masked.
        patch_size: voxels per axis of a patch; by default what makes the grid fill the image.

    Returns:
        A scalar: the mean over masked voxels and channels.
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
    """Focal frequency loss (Jiang et al. 2021, equation 8) on masked patches.

    With dF the orthonormal DFT of prediction - target in one patch and channel (the transform is linear: once is
    enough), the loss is the mean of w |dF|^2 with w = |dF|^alpha / max |dF|^alpha, the maximum taken in the patch and
    channel and no gradient through w.

    Args:
        prediction: (B, C, *spatial).
        target: like `prediction`.
        mask: boolean (B, *grid) of patches; True = masked.
        patch_size: voxels per axis of a patch.
        alpha: exponent of the weight; 0 gives the plain squared error.
        legacy: as published with BDFM: the transform runs over channel and all spatial axes but the last, and a patch
            counts for the whole batch as soon as it is masked in one sample.

    Returns:
        A scalar: the mean over masked patches, channels and frequencies.

    Raises:
        ValueError: shapes that do not fit one another.
    """
    _check(prediction, target, mask, patch_size)
    with full_precision(target.device):
        difference = patchify(at_least_single(prediction) - at_least_single(target), patch_size)
        if legacy:
            return _legacy(difference, mask.flatten(1).any(0), alpha)
        return _corrected(difference, mask.flatten(1), alpha)


def _corrected(difference: Tensor, chosen: Tensor, alpha: float) -> Tensor:
    """Patches (B, P, C, *patch), of which `chosen` (B, P) count."""
    power, count = patch_power(difference, difference.ndim - 3)
    weight = _focal_weight(power.detach(), power.detach().amax(-1, keepdim=True), alpha)
    per_patch = (power * weight) @ count / difference.shape[3:].numel()  # (B, P, C)
    return (per_patch * chosen.unsqueeze(-1)).sum() / (chosen.sum() * difference.shape[2]).clamp_min(1)


def _legacy(difference: Tensor, chosen: Tensor, alpha: float) -> Tensor:
    """The published transform on the patches (B, P, C, *patch) that are masked anywhere in the batch, `chosen` (P,)."""
    difference = difference[:, chosen]
    spectrum = torch.fft.fftn(difference, dim=tuple(range(2, difference.ndim - 1)), norm="ortho")
    power = spectrum.real.square() + spectrum.imag.square()
    peak = power.detach().amax(dim=tuple(range(3, power.ndim)), keepdim=True)
    return (_focal_weight(power.detach(), peak, alpha) * power).mean()


def _focal_weight(power: Tensor, peak: Tensor, alpha: float) -> Tensor:
    """(|dF| / max |dF|)^alpha from squared magnitudes; 0 where a patch has no error at all."""
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
