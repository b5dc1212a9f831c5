"""Masked image modelling: BDFM and, with other settings, SimMIM.

SimMIM: Xie et al. 2022, https://arxiv.org/abs/2111.09886. The frequency decoder is scored by the focal frequency loss:
Jiang et al. 2021, https://arxiv.org/abs/2012.12821.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet import metrics
from bdfm_nnunet.frequency import at_least_single, full_precision, patchify, unpatchify
from bdfm_nnunet.losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.masking import MaskToken, block_mask, per_axis, upsample
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.objectives.frequency_decoder import FrequencyDecoder
from bdfm_nnunet.objectives.pixel_decoders import FinalDecoder, PyramidDecoder
from bdfm_nnunet.settings import PretrainingSettings
from bdfm_nnunet.step_checks import check_masks


class MaskedImageModelling(Objective):
    """BDFM: mask patches, encode the image, reconstruct it in space and in frequency.

    The loss of the pixel decoder is the squared error on masked voxels, that of the frequency decoder the focal
    frequency loss (https://arxiv.org/abs/2012.12821) on masked patches. `PretrainingSettings.published()` is the model
    as its authors coded it; the preset "simmim" is SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886).

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: all other settings.

    Example:
        >>> from bdfm_nnunet.networks.encoders import encoder_of
        >>> from bdfm_nnunet.networks.swin_unet import SwinUNet
        >>> network = SwinUNet(
        ...     1, 2, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> objective = MaskedImageModelling(encoder_of(network))
        >>> losses = objective(torch.rand(2, 1, 32, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> sorted(losses)
        ['frequency', 'loss', 'pixel']
    """

    settings_class = PretrainingSettings
    settings: PretrainingSettings
    progress = ("psnr", True)
    panels = MappingProxyType(
        {
            "PSNR on masked voxels [dB]": {"network": "psnr", "mean fill": "psnr_mean_fill"},
            "SSIM on masked voxels": {"network": "ssim", "mean fill": "ssim_mean_fill"},
        }
    )

    def __init__(
        self,
        view: EncoderView,
        settings: PretrainingSettings | None = None,
        *,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(view, settings, spacing=spacing)
        settings = self.settings
        self.patch_size = per_axis(settings.patch_size or view.token_patch, view.axes)
        self.block_size = per_axis(settings.block_size or (1 if view.is_transformer else 4), view.axes)
        noise = 0.02 if settings.mask_token == "scalar_mean" else 0.0
        self.mask_token = MaskToken(view.mask_channels, settings.mask_token, noise=noise)
        parallel = settings.frequency_decoder == "parallel"
        outputs = view.in_channels * (2 if parallel else 1)
        self.pixel_decoder: nn.Module
        if settings.decoder == "final":
            self.pixel_decoder = FinalDecoder(view.channels[-1], view.strides[-1], settings.decoder_channels, outputs)
        else:
            self.pixel_decoder = PyramidDecoder(view.channels, view.strides, settings.decoder_channels, outputs)
        self.frequency_decoder = None if settings.frequency_decoder == "none" else self._build_frequency_decoder()

    def _build_frequency_decoder(self) -> FrequencyDecoder:
        settings = self.settings
        norm = settings.frequency_norm
        if norm is None:
            norm = settings.frequency_target == "patch_normalised"
        return FrequencyDecoder(
            self.view.in_channels,
            self.view.axes,
            blocks=settings.frequency_blocks,
            padding=settings.frequency_padding,
            output=settings.frequency_output,
            norm_patch=self.patch_size if norm else None,
        )

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: PretrainingSettings) -> None:
        """Raise InputError if patches and blocks of the masks do not fit the crops or the network."""
        check_masks(configuration, settings)

    def share_encoding(self, other: Objective) -> bool:
        """Share the mask token with an objective that masks in the same way."""
        names = ("mask_ratio", "patch_size", "block_size", "mask_token")
        if not isinstance(other, MaskedImageModelling):
            return False
        same = all(getattr(self.settings, name) == getattr(other.settings, name) for name in names)
        if same:
            self.mask_token = other.mask_token
        return same

    def make_countable(self) -> None:
        """Use the corrected loss: which patches the published form transforms hangs on the content of the mask.

        The other form costs about the same.
        """
        self.settings = replace(self.settings, legacy_frequency_loss=False)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses of the pixel decoder and, if present, the frequency decoder."""
        return ("pixel",) if self.frequency_decoder is None else ("pixel", "frequency")

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the masks of a step."""
        return {"mask": self.draw_mask(batch, spatial, generator=generator)}

    def draw_mask(
        self,
        batch: int,
        spatial: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw a mask (B, *grid) for images of `spatial` voxels, True = masked."""
        return block_mask(
            batch,
            self.grid(spatial),
            ratio=self.settings.mask_ratio,
            block_size=self.block_size,
            generator=generator,
            device=device,
        )

    def grid(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the patches per axis of an image.

        Raises:
            ValueError: the image is not a multiple of the patch or of the encoder's total stride.
        """
        for step in (self.patch_size, self.view.strides[-1]):
            if any(size % part for size, part in zip(spatial, step, strict=True)):
                raise ValueError(f"images of {tuple(spatial)} voxels cannot be rebuilt from positions of {step} voxels")
        return tuple(size // part for size, part in zip(spatial, self.patch_size, strict=True))

    def reconstruct(self, images: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
        """Reconstruct masked images.

        Args:
            images: (B, C, *spatial).
            mask: boolean (B, *grid), True = masked.

        Returns:
            "pixel" and, with a frequency decoder, "frequency": (B, C, *spatial) each.
        """
        self.grid(images.shape[2:])
        decoded = self.pixel_decoder(self.view.features(images, mask, self.mask_token, patch_size=self.patch_size))
        if self.frequency_decoder is None:
            return {"pixel": decoded}
        if self.settings.frequency_decoder == "serial":
            return {"pixel": decoded, "frequency": self.frequency_decoder(decoded)}
        pixel, start = decoded.chunk(2, dim=1)
        return {"pixel": pixel, "frequency": self.frequency_decoder(start)}

    def losses(self, images: Tensor, rebuilt: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Return the "loss" of a reconstruction and its terms "pixel" and "frequency"."""
        settings = self.settings
        pixel = masked_mse(rebuilt["pixel"], images, mask)
        terms = {"loss": settings.pixel_weight * pixel, "pixel": pixel}
        if "frequency" in rebuilt:
            terms["frequency"] = focal_frequency_loss(
                rebuilt["frequency"],
                self.frequency_target(images),
                mask,
                patch_size=self.patch_size,
                alpha=settings.alpha,
                legacy=settings.legacy_frequency_loss,
            )
            terms["loss"] = terms["loss"] + settings.frequency_weight * terms["frequency"]
        return terms

    def frequency_target(self, images: Tensor) -> Tensor:
        """Return the target of the frequency decoder: the image, or the image with each patch normalised."""
        if self.settings.frequency_target == "raw":
            return images
        patches = patchify(at_least_single(images), self.patch_size)
        voxels = tuple(range(3, patches.ndim))
        spread, mean = torch.var_mean(patches, dim=voxels, keepdim=True, unbiased=False)
        return unpatchify((patches - mean) / (spread + 1e-6).sqrt(), self.grid(images.shape[2:]))

    def forward(  # type: ignore[override]
        self, images: Tensor, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            images: (B, C, *spatial), each axis a multiple of the patch and of the encoder's total stride.
            mask: boolean (B, *grid), True = masked; drawn if not given.
            generator: random generator of a drawn mask.

        Returns:
            "loss" and its unweighted terms "pixel" and "frequency", scalars.
        """
        if mask is None:
            mask = self.draw_mask(len(images), images.shape[2:], generator=generator, device=images.device)
        return self.losses(images, self.reconstruct(images, mask=mask), mask)

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Rebuild images and score them on the masked voxels, beside filling these with the mean of the visible ones.

        Args:
            images: (B, C, *spatial).
            drawn: "mask", boolean (B, *grid).
        """
        mask = drawn["mask"]
        rebuilt = self.reconstruct(images, mask=mask)
        terms = self.losses(images, rebuilt, mask)
        voxels = upsample(mask, self.patch_size)
        picture = Picture(images[0, 0], {name: image[0, 0] for name, image in rebuilt.items()}, voxels[0])
        with full_precision(images.device):
            scores = _scores(rebuilt["pixel"].float(), images, voxels)
            return Monitored(terms | scores, {"reconstructions": picture})

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the reconstruction of held-out crops."""
        return (
            f"Reconstruction of held-out crops: PSNR {latest['psnr']:.2f} dB on masked voxels, "
            f"{latest['psnr_mean_fill']:.2f} dB for filling with the mean; SSIM {latest['ssim']:.3f} against "
            f"{latest['ssim_mean_fill']:.3f}"
        )


def _scores(prediction: Tensor, images: Tensor, voxels: Tensor) -> dict[str, Tensor]:
    """Return PSNR and SSIM on the masked voxels, and those of a fill with the mean, averaged over the samples."""
    if images.device.type == "mps":  # has no 3-D average pooling
        prediction, images, voxels = prediction.cpu(), images.cpu(), voxels.cpu()
    filled = metrics.fill_with_mean(images, voxels)
    scores = {
        "psnr": metrics.masked_psnr(prediction, images, voxels),
        "psnr_mean_fill": metrics.masked_psnr(filled, images, voxels),
        "ssim": metrics.masked_ssim(prediction, images, voxels),
        "ssim_mean_fill": metrics.masked_ssim(filled, images, voxels),
    }
    return {name: score.nanmean() for name, score in scores.items()}
