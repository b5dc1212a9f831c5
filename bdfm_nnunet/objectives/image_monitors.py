"""Scores of rebuilt validation crops that every objective with a reconstruction monitors, and their panels."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from bdfm_nnunet.metrics import fill_with_mean, masked_psnr, masked_ssim
from bdfm_nnunet.sharpness_metrics import Spacing, edge_psnr, hfen
from bdfm_nnunet.spectrum_metrics import power_spectrum_error

_FILL = "mean_fill"


def detail_panels(baseline: str, ending: str) -> dict[str, dict[str, str]]:
    """Return the panels of what `detail_scores` returns, beside those of a baseline.

    Args:
        baseline: label of its curves.
        ending: of its names.

    Example:
        >>> detail_panels("mean fill", "mean_fill")["HFEN"]
        {'network': 'hfen', 'mean fill': 'hfen_mean_fill'}
    """
    titles = {
        "hfen": "HFEN",
        "edge_psnr": "PSNR at edges [dB]",
        "spectrum_error": "power lost or invented above half the Nyquist frequency [dB]",
    }
    return {title: {"network": name, baseline: f"{name}_{ending}"} for name, title in titles.items()}


def detail_scores(
    rebuilt: Tensor, images: Tensor, voxels: Tensor | None = None, *, spacing: Spacing = None
) -> dict[str, Tensor]:
    """Return "hfen", "edge_psnr" and "spectrum_error" of each sample, (B,), on the masked voxels or everywhere.

    Args:
        rebuilt: (B, C, *spatial).
        images: originals, same shape.
        voxels: boolean (B, *spatial), True = masked.
        spacing: voxel size in mm; 1 mm where it is None.

    Example:
        >>> import torch
        >>> images = torch.rand(2, 1, 16, 16, 16)
        >>> scores = detail_scores(images, images)
        >>> list(scores), scores["hfen"].tolist()
        (['hfen', 'edge_psnr', 'spectrum_error'], [0.0, 0.0])
    """
    return {
        "hfen": hfen(rebuilt, images, voxels, spacing=spacing),
        "edge_psnr": edge_psnr(rebuilt, images, voxels, spacing=spacing),
        "spectrum_error": power_spectrum_error(rebuilt, images, voxels, spacing=spacing).high,
    }


IMAGE_PANELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "PSNR on masked voxels [dB]": {"network": "psnr", "mean fill": f"psnr_{_FILL}"},
        "SSIM on masked voxels": {"network": "ssim", "mean fill": f"ssim_{_FILL}"},
        **detail_panels("mean fill", _FILL),
    }
)
"""Panels of progress.png for what `image_scores` returns, as `Objective.panels`."""


def image_scores(prediction: Tensor, images: Tensor, voxels: Tensor, *, spacing: Spacing = None) -> dict[str, Tensor]:
    """Score a reconstruction on its masked voxels, beside filling these with the mean of the visible ones.

    Args:
        prediction: rebuilt images (B, C, *spatial).
        images: originals, same shape.
        voxels: boolean (B, *spatial), True = masked.
        spacing: voxel size in mm; 1 mm where it is None.

    Returns:
        Each name of `IMAGE_PANELS` -> mean over the samples, a scalar; NaN where no sample has the score.

    Example:
        >>> import torch
        >>> images = torch.rand(2, 1, 16, 16, 16)
        >>> scores = image_scores(images, images, images[:, 0] > 0.5)
        >>> round(scores["ssim"].item(), 3), bool(scores["psnr"] > scores["psnr_mean_fill"])
        (1.0, True)
    """
    if images.device.type == "mps":  # has no 3-D average pooling
        prediction, images, voxels = prediction.cpu(), images.cpu(), voxels.cpu()
    found = {"": prediction, f"_{_FILL}": fill_with_mean(images, voxels)}
    scores = {
        f"{name}{ending}": score
        for ending, rebuilt in found.items()
        for name, score in _scores(rebuilt, images, voxels, spacing).items()
    }
    return {name: score.nanmean() for name, score in scores.items()}


def _scores(rebuilt: Tensor, images: Tensor, voxels: Tensor, spacing: Spacing) -> dict[str, Tensor]:
    return {
        "psnr": masked_psnr(rebuilt, images, voxels),
        "ssim": masked_ssim(rebuilt, images, voxels),
        **detail_scores(rebuilt, images, voxels, spacing=spacing),
    }
