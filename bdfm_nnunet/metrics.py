"""How well masked voxels were rebuilt: PSNR and SSIM on tensors (B, C, *spatial)."""

import torch
from torch import Tensor
from torch.nn import functional

_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def intensity_range(images: Tensor) -> Tensor:
    """Largest minus smallest intensity of each image and channel, (B, C), at least a hundredth of a unit."""
    voxels = images.flatten(2)
    return (voxels.amax(-1) - voxels.amin(-1)).clamp_min(1e-2)


def fill_with_mean(images: Tensor, mask: Tensor) -> Tensor:
    """The simplest reconstruction: every masked voxel becomes the mean over the visible voxels of its image.

    Args:
        images: (B, C, *spatial).
        mask: boolean (B, *spatial) of voxels, True = masked.
    """
    hidden = mask.unsqueeze(1)
    axes = tuple(range(2, images.ndim))
    mean = (images * ~hidden).sum(axes, keepdim=True) / (~hidden).sum(axes, keepdim=True).clamp_min(1)
    return torch.where(hidden, mean, images)


def masked_psnr(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over the masked voxels, in dB, the peak being each image's intensity range.

    Args:
        prediction: (B, C, *spatial).
        target: like `prediction`.
        mask: boolean (B, *spatial) of voxels, True = masked.

    Returns:
        (B,), the mean over channels.
    """
    hidden = mask.unsqueeze(1).flatten(2)
    error = (prediction - target).float().square().flatten(2)
    mse = (error * hidden).sum(-1) / hidden.sum(-1).clamp_min(1)
    return (10 * torch.log10(intensity_range(target.float()).square() / mse.clamp_min(1e-12))).mean(1)


def masked_ssim(prediction: Tensor, target: Tensor, mask: Tensor, *, window: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) averaged over the masked voxels.

    The image that is judged shows the prediction where it was masked and the original elsewhere. Uniform window,
    sample covariances and constants K1 = 0.01, K2 = 0.03, as scikit-image's `structural_similarity` has them; windows
    that would leave the image are not counted.

    Args:
        prediction: (B, C, *spatial).
        target: like `prediction`.
        mask: boolean (B, *spatial) of voxels, True = masked.
        window: voxels per axis.

    Returns:
        (B,), the mean over channels; NaN where no whole window is centred on a masked voxel.
    """
    axes = target.ndim - 2
    hidden = mask.unsqueeze(1)
    first, second = target.float(), torch.where(hidden, prediction, target).float()
    pool = _POOL[axes]
    means = [pool(image, window, stride=1) for image in (first, second)]
    correction = window**axes / (window**axes - 1)
    squares = [pool(a * b, window, stride=1) for a, b in ((first, first), (second, second), (first, second))]
    products = (means[0].square(), means[1].square(), means[0] * means[1])
    variances = [correction * (square - product) for square, product in zip(squares, products, strict=True)]
    scale = intensity_range(first)[(..., *(None,) * axes)]
    c1, c2 = (0.01 * scale).square(), (0.03 * scale).square()
    similarity = ((2 * products[2] + c1) * (2 * variances[2] + c2)) / (
        (products[0] + products[1] + c1) * (variances[0] + variances[1] + c2)
    )
    margin = window // 2
    inner = hidden[(slice(None), slice(None), *(slice(margin, size - margin) for size in target.shape[2:]))].flatten(2)
    return ((similarity.flatten(2) * inner).sum(-1) / inner.sum(-1)).mean(1)
