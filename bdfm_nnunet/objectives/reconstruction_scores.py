"""How well whole images are rebuilt, their high frequencies above all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency import filtered, full_precision, radial_frequencies
from bdfm_nnunet.losses import high_frequency_loss
from bdfm_nnunet.metrics import masked_psnr


@torch.no_grad()
def reconstruction_scores(
    prediction: Tensor, target: Tensor, *, spacing: Sequence[float], cutoff: float
) -> dict[str, Tensor]:
    """Score a reconstruction over all voxels.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        spacing: millimetres per axis.
        cutoff: frequency in cycles/mm above which the share of the spectrum counts.

    Returns:
        Means over the samples: "psnr" in dB; "hfl", the high-frequency loss; "recovered", 1 minus the power of the
        error above the cut-off, relative to that of the target: 1 for a perfect reconstruction, 0 for one without any
        high frequency, below 0 for a wrong one; 0 for a target without any.

    Example:
        >>> target = torch.rand(1, 1, 16, 16)
        >>> blank = reconstruction_scores(0 * target, target, spacing=(1.0, 1.0), cutoff=0.1)
        >>> perfect = reconstruction_scores(target, target, spacing=(1.0, 1.0), cutoff=0.1)
        >>> blank["recovered"].item(), perfect["recovered"].item()
        (0.0, 1.0)
    """
    with full_precision(target.device):
        prediction, target = prediction.float(), target.float()
        spatial = target.shape[2:]
        high = (radial_frequencies(spatial, spacing=spacing, half=True, device=target.device) > cutoff).float()
        power = [
            filtered(image, high, axes=len(spatial)).square().flatten(1).sum(1)
            for image in (prediction - target, target)
        ]
        least = 1e-10 * target.square().flatten(1).sum(1)  # what rounding leaves of an image of one intensity
        everywhere = torch.ones(len(target), *spatial, dtype=torch.bool, device=target.device)
        return {
            "psnr": masked_psnr(prediction, target, everywhere).mean(),
            "hfl": high_frequency_loss(prediction, target, spacing=spacing),
            "recovered": torch.where(power[1] > least, 1 - power[0] / power[1], 0).mean(),
        }
