"""Quality of a reconstruction over its masked voxels: PSNR and SSIM.

Shapes: images (B, C, *spatial); masks are boolean and per voxel (B, *spatial), True = masked.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.frequency import at_least_single

_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def intensity_range(images: Tensor) -> Tensor:
    """Return the largest minus the smallest intensity of each image and channel, (B, C), at least 0.01.

    Example:
        >>> intensity_range(torch.tensor([[[0.0, 3.0, 1.0]], [[5.0, 5.0, 5.0]]]))
        tensor([[3.0000],
                [0.0100]])
    """
    voxels = images.flatten(2)
    return (voxels.amax(-1) - voxels.amin(-1)).clamp_min(1e-2)


def fill_with_mean(images: Tensor, mask: Tensor) -> Tensor:
    """Replace every masked voxel by the mean over the visible voxels of its image and channel.

    A trained network must be better than this simplest reconstruction.

    Args:
        images: (B, C, *spatial).
        mask: boolean (B, *spatial) of voxels, True = masked.

    Returns:
        (B, C, *spatial).

    Example:
        >>> fill_with_mean(torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[False, False, True]]))
        tensor([[[1., 3., 2.]]])
    """
    hidden = mask.unsqueeze(1)
    axes = tuple(range(2, images.ndim))
    mean = (images * ~hidden).sum(axes, keepdim=True) / (~hidden).sum(axes, keepdim=True).clamp_min(1)
    return torch.where(hidden, mean, images)


def difference(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the error of a prediction, zero where nothing was masked, and the target, at least in single precision.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial) of voxels, True = masked; by default all are.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> target, mask = torch.zeros(1, 1, 3), torch.tensor([[False, True, True]])
        >>> difference(target + 1, target, mask)[0]
        tensor([[[0., 1., 1.]]])
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction is {tuple(prediction.shape)}, the target {tuple(target.shape)}: give two alike"
        )
    original = at_least_single(target)
    error = at_least_single(prediction) - original
    return (error if mask is None else torch.where(mask.unsqueeze(1), error, 0.0)), original


def masked_psnr(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio over the masked voxels, in dB.

    PSNR is 10 log10(range^2 / MSE), with the intensity range of each target image and channel.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial) of voxels, True = masked.

    Returns:
        (B,) in dB, the mean over channels.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.metrics import masked_psnr
        >>> target, mask = torch.linspace(0, 1, 8).reshape(1, 1, 2, 4), torch.ones(1, 2, 4, dtype=torch.bool)
        >>> masked_psnr(target + 0.1, target, mask)
        tensor([20.0000])
    """
    hidden = mask.unsqueeze(1).flatten(2)
    error = (prediction - target).float().square().flatten(2)
    mse = (error * hidden).sum(-1) / hidden.sum(-1).clamp_min(1)
    return (10 * torch.log10(intensity_range(target.float()).square() / mse.clamp_min(1e-12))).mean(1)


def masked_ssim(prediction: Tensor, target: Tensor, mask: Tensor, *, window: int = 7) -> Tensor:
    """Return the structural similarity averaged over the masked voxels.

    SSIM (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861) compares two windows x and y by their means m,
    variances v and covariance c: (2 m_x m_y + C1) (2 c + C2) / ((m_x^2 + m_y^2 + C1) (v_x + v_y + C2)), with
    C1 = (0.01 range)^2 and C2 = (0.03 range)^2. The prediction is judged where it was masked, with the original around
    it. Window (uniform), sample covariances and constants are the defaults of scikit-image's `structural_similarity`;
    windows that leave the image are not counted.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, *spatial) of voxels, True = masked.
        window: voxels per axis.

    Returns:
        (B,), the mean over channels; NaN where no whole window is centred on a masked voxel.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.metrics import fill_with_mean, masked_ssim
        >>> target, mask = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 16, 16, 16) < 0.75
        >>> masked_ssim(target, target, mask)
        tensor([1.])
        >>> bool(masked_ssim(fill_with_mean(target, mask), target, mask) < 0.6)
        True
    """
    hidden = mask.unsqueeze(1)
    similarity = ssim_map(torch.where(hidden, prediction, target), target, window=window)
    margin = window // 2
    inner = hidden[(slice(None), slice(None), *(slice(margin, size - margin) for size in target.shape[2:]))].flatten(2)
    return ((similarity.flatten(2) * inner).sum(-1) / inner.sum(-1)).mean(1)


def ssim_map(prediction: Tensor, target: Tensor, *, window: int = 7) -> Tensor:
    """Return the structural similarity of each window, as `masked_ssim` has it.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial), whose intensity range counts.
        window: voxels per axis.

    Returns:
        (B, C, *inner), the voxels on which a whole window is centred: window // 2 less at every border.

    Example:
        >>> target = torch.rand(1, 1, 16, 12)
        >>> ssim_map(target, target).shape, bool((ssim_map(target, target) > 0.999).all())
        (torch.Size([1, 1, 10, 6]), True)
    """
    axes = target.ndim - 2
    first, second = target.float(), prediction.float()
    pool = _POOL[axes]
    means = [pool(image, window, stride=1) for image in (first, second)]
    correction = window**axes / (window**axes - 1)
    squares = [pool(a * b, window, stride=1) for a, b in ((first, first), (second, second), (first, second))]
    products = (means[0].square(), means[1].square(), means[0] * means[1])
    variances = [correction * (square - product) for square, product in zip(squares, products, strict=True)]
    scale = intensity_range(first)[(..., *(None,) * axes)]
    c1, c2 = (0.01 * scale).square(), (0.03 * scale).square()
    return ((2 * products[2] + c1) * (2 * variances[2] + c2)) / (
        (products[0] + products[1] + c1) * (variances[0] + variances[1] + c2)
    )
