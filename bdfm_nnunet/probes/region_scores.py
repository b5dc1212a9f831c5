"""How well a region of a rebuilt image is rebuilt: PSNR, SSIM and HFEN."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.metrics import intensity_range, ssim_map
from bdfm_nnunet.sharpness_metrics import laplacian_of_gaussian

MEASURES = ("psnr", "ssim", "hfen")
_WINDOW = 7


def region_scores(
    prediction: Tensor, target: Tensor, regions: Mapping[str, Tensor], *, spacing: Sequence[float] | None = None
) -> dict[str, dict[str, float]]:
    """Score regions of a whole rebuilt image.

    The measures are those of `bdfm_nnunet.metrics` and `bdfm_nnunet.sharpness_metrics`, with the intensity range of the
    whole target: PSNR over the region's voxels, SSIM averaged over the windows that are centred on them, HFEN as the
    norm of the filtered error over that of the filtered target there. Windows and filters reach beyond the region, into
    what was rebuilt too.

    Args:
        prediction: (C, *spatial).
        target: (C, *spatial).
        regions: name -> boolean (*spatial).
        spacing: mm per axis; 1 by default.

    Returns:
        Region -> "psnr" in dB, "ssim" and "hfen" (0 is best), means over the channels; NaN where a region is empty, or
        has no whole window for SSIM.

    Example:
        >>> target = torch.rand(1, 16, 16, 16)
        >>> regions = {"left": torch.arange(16).expand(16, 16, 16) < 8, "none": torch.zeros(16, 16, 16, dtype=bool)}
        >>> scores = region_scores(target + 0.1 * regions["left"], target, regions)
        >>> round(scores["left"]["psnr"]), scores["none"]["psnr"]
        (20, nan)
    """
    predicted, original = prediction[None].float(), target[None].float()
    error = predicted - original
    scale = intensity_range(original)[0]
    similarity = _padded(ssim_map(predicted, original, window=_WINDOW), original.shape)
    details = [laplacian_of_gaussian(image, spacing=spacing)[0] for image in (error, original)]
    scores = {}
    for name, region in regions.items():
        squares = _mean(error[0].square(), region)
        psnr = 10 * torch.log10(scale.square() / squares.clamp_min(1e-12))
        lost, held = (image.square()[:, region].sum(1).sqrt() for image in details)
        hfen = torch.where(held > 1e-6 * original[0][:, region].norm(dim=1), lost / held, math.nan)
        values = (psnr, _mean(similarity[0], region), hfen)
        scores[name] = {key: float(value.mean()) for key, value in zip(MEASURES, values, strict=True)}
    return scores


def _padded(similarity: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a map of whole windows at the size of the image, NaN where there is none."""
    margin = _WINDOW // 2
    return functional.pad(similarity, [margin] * (2 * (len(shape) - 2)), value=math.nan)


def _mean(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean of (C, *spatial) over a region, per channel; NaN where there is nothing."""
    return values[:, region].nanmean(1)
