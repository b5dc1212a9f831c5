"""Masked image modelling: BDFM and, with other settings, SimMIM.

SimMIM: Xie et al. 2022, https://arxiv.org/abs/2111.09886. The frequency decoder is scored by the focal frequency loss:
Jiang et al. 2021, https://arxiv.org/abs/2012.12821.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.frequency import at_least_single, full_precision, patchify, unpatchify
from bdfm_nnunet.losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.masking import MaskToken, block_mask, per_axis, upsample
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.objectives.frequency_decoder import FrequencyDecoder
from bdfm_nnunet.objectives.image_monitors import IMAGE_PANELS, image_scores
from bdfm_nnunet.objectives.pixel_decoders import StemRefinement, pixel_decoder
from bdfm_nnunet.objectives.visible_decoder import VisibleDecoder
from bdfm_nnunet.settings import PretrainingSettings
from bdfm_nnunet.step_checks import check_masks, check_stem, check_visible, check_whole_blocks, default_block


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
    uses_channels = True
    progress = ("psnr", True)
    panels = IMAGE_PANELS

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
        default = default_block(settings, self.patch_size, view.strides[-1], transformer=view.is_transformer)
        self.block_size = per_axis(settings.block_size or default, view.axes)
        noise = 0.02 if settings.mask_token == "scalar_mean" else 0.0
        self.encodes_all = settings.encode == "all"
        self.shapes_vary = not self.encodes_all
        if self.encodes_all:
            self.mask_token = MaskToken(view.mask_channels, settings.mask_token, noise=noise)
        self.pixel_decoder = self._build_pixel_decoder(noise)
        if settings.stem or (settings.decoder == "network" and view.stem is not None):
            self._add_stem(noise)
        if settings.decoder == "network":
            self.decoder = view.decoder  # by this name, under which fine-tuning looks for it
        has_decoder = settings.frequency_decoder in ("parallel", "serial")
        self.frequency_decoder = self._build_frequency_decoder() if has_decoder else None

    def _build_pixel_decoder(self, noise: float) -> nn.Module:
        view, settings = self.view, self.settings
        outputs = self._decoded_channels
        if settings.decoder == "final" or self.encodes_all:
            return pixel_decoder(view, settings.decoder, settings.decoder_channels, outputs)
        legacy = bool(getattr(view.module, "legacy", False))
        sizes = (self.patch_size, self.block_size, view.strides[-1])
        check_visible(*sizes, transformer=view.masks_tokens, legacy=legacy)
        return VisibleDecoder(
            view.channels,
            view.strides,
            settings.decoder_channels,
            outputs,
            mask_token=settings.mask_token,
            noise=noise,
            block=self.block_voxels,
        )

    def _add_stem(self, noise: float) -> None:
        check_stem(has_stem=self.view.stem is not None)
        assert self.view.stem is not None
        self.stem = self.view.stem  # by this name, under which fine-tuning looks for it
        self.stem_token = MaskToken(self.view.in_channels, self.settings.mask_token, noise=noise)
        if self.settings.decoder != "network":
            self.stem_refinement = StemRefinement(self.stem.channels, self._decoded_channels, self.view.axes)

    @property
    def _decoded_channels(self) -> int:
        return self.view.in_channels * (2 if self.settings.frequency_decoder == "parallel" else 1)

    @property
    def block_voxels(self) -> tuple[int, ...]:
        """Voxels per axis of the blocks that are masked together."""
        return tuple(count * step for count, step in zip(self.block_size, self.patch_size, strict=True))

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
        """Share the mask token with an objective that masks in the same way; without it, visible tokens are shared."""
        names = ("mask_ratio", "patch_size", "block_size", "encode", *(("mask_token",) if self.encodes_all else ()))
        if not isinstance(other, MaskedImageModelling):
            return False
        same = all(getattr(self.settings, name) == getattr(other.settings, name) for name in names)
        if same and self.encodes_all:
            self.mask_token = other.mask_token
        return same

    def make_countable(self) -> None:
        """Use the corrected loss: which patches the published form transforms hangs on the content of the mask.

        The other form costs about the same.
        """
        self.settings = replace(self.settings, legacy_frequency_loss=False)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses: in space and, unless there is none, in frequency."""
        return ("pixel",) if self.settings.frequency_decoder == "none" else ("pixel", "frequency")

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the masks of a step; and the blocks that are rebuilt, (B, *blocks), unless it is all hidden ones."""
        mask = self.draw_mask(batch, spatial, generator=generator)
        if self.settings.rebuild == 1:
            return {"mask": mask}
        hidden = self._of_blocks(mask)
        count = max(1, round(self.settings.rebuild * int(hidden[0].sum())))
        noise = torch.rand(batch, hidden[0].numel(), generator=generator, device=mask.device)
        order = noise.masked_fill_(~hidden.flatten(1), 2).argsort(1)
        chosen = torch.zeros_like(hidden).flatten(1).scatter_(1, order[:, :count], True)
        return {"mask": mask, "rebuild": chosen.reshape(hidden.shape)}

    def _of_blocks(self, mask: Tensor) -> Tensor:
        """Return which blocks a mask of patches hides, (B, *blocks)."""
        return mask[(slice(None), *(slice(None, None, size) for size in self.block_size))]

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
        if not self.encodes_all:
            check_whole_blocks(spatial, self.patch_size, self.block_size)
        return tuple(size // part for size, part in zip(spatial, self.patch_size, strict=True))

    def reconstruct(self, images: Tensor, *, mask: Tensor, only_pixel: bool = False) -> dict[str, Tensor]:
        """Reconstruct masked images.

        Args:
            images: (B, C, *spatial).
            mask: boolean (B, *grid), True = masked.
            only_pixel: leave out what the frequency decoder would compute.

        Returns:
            "pixel" and, with a loss in frequency, "frequency": (B, C, *spatial) each.
        """
        self.grid(images.shape[2:])
        if self.encodes_all:
            features = self.view.features(images, mask, self.mask_token, patch_size=self.patch_size)
            return self._in_both_domains(self._decoded(features, images, mask), only_pixel)
        counts = [size // step for size, step in zip(images.shape[2:], self.block_voxels, strict=True)]
        every = torch.ones(len(images), *counts, dtype=torch.bool)
        rebuilt = self._rebuild(images, mask, _numbers(every), only_pixel)
        return {name: unpatchify(blocks.unflatten(0, (len(images), -1)), counts) for name, blocks in rebuilt.items()}

    def _decoded(self, features: list[Tensor], images: Tensor, mask: Tensor) -> Tensor:
        """Return the output of the pixel decoder, to which a stem contributes as its kind has it."""
        if not hasattr(self, "stem"):
            return self.pixel_decoder(features)
        finest = self._stem_features(images, mask)
        if self.settings.decoder == "network":
            return self.pixel_decoder([finest, *features])
        return self.stem_refinement(self.pixel_decoder(features), finest)

    def _stem_features(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the features of the full-resolution stem, which sees images whose masked voxels are filled."""
        filled = self.stem_token(images.movedim(1, -1), upsample(mask, self.patch_size)).movedim(-1, 1)
        features: Tensor = self.stem(filled.contiguous())
        return features

    def _rebuild(self, images: Tensor, mask: Tensor, blocks: Tensor, only_pixel: bool = False) -> dict[str, Tensor]:
        """Rebuild blocks, (B, K) by their numbers, from what is visible; the results are (B * K, C, *block)."""
        assert isinstance(self.pixel_decoder, VisibleDecoder)
        features, where = self.view.visible_features(images, mask, patch_size=self.patch_size)
        return self._in_both_domains(self.pixel_decoder.rebuild(features, where, blocks.to(images.device)), only_pixel)

    def _in_both_domains(self, decoded: Tensor, only_pixel: bool) -> dict[str, Tensor]:
        """Return the outputs "pixel" and "frequency" of the decoders from that of the pixel decoder."""
        if self.frequency_decoder is None:
            return dict.fromkeys(self.terms, decoded)
        parallel = self.settings.frequency_decoder == "parallel"
        pixel, start = decoded.chunk(2, dim=1) if parallel else (decoded, decoded)
        return {"pixel": pixel} if only_pixel else {"pixel": pixel, "frequency": self.frequency_decoder(start)}

    def losses(
        self, images: Tensor, rebuilt: dict[str, Tensor], mask: Tensor, channels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the "loss" of a reconstruction and its terms "pixel" and "frequency".

        A channel that is left out counts as rebuilt: nothing in the image tells what it would show.
        """
        settings = self.settings
        if channels is not None:
            rebuilt = {name: only_channels(image, channels) for name, image in rebuilt.items()}
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
        self,
        images: Tensor,
        *,
        mask: Tensor | None = None,
        rebuild: Tensor | None = None,
        channels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            images: (B, C, *spatial), each axis a multiple of the patch and of the encoder's total stride.
            mask: boolean (B, *grid), True = masked; drawn if not given.
            rebuild: boolean (B, *blocks), hidden blocks that are rebuilt and counted where only visible tokens are
                encoded; by default all.
            channels: boolean (B, C), False where the images lack a channel (0); by default none.
            generator: random generator of a drawn mask.

        Returns:
            "loss" and its unweighted terms "pixel" and "frequency", scalars.
        """
        if mask is None:
            mask = self.draw_mask(len(images), images.shape[2:], generator=generator, device=images.device)
        if not self.encodes_all:
            return self._losses_of_blocks(images, mask, self._of_blocks(mask) if rebuild is None else rebuild, channels)
        return self.losses(images, self.reconstruct(images, mask=mask), mask, channels)

    def _losses_of_blocks(
        self, images: Tensor, mask: Tensor, rebuild: Tensor, channels: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses of blocks (B, *blocks), each of which is treated as an image that is masked as a whole."""
        self.grid(images.shape[2:])
        if mask.is_meta:  # whose content is not known: costs are counted for some mask
            mask = self.draw_mask(len(images), images.shape[2:], generator=torch.Generator().manual_seed(0))
            rebuild = self._of_blocks(mask)
        blocks = _numbers(rebuild)
        rebuilt = self._rebuild(images, mask, blocks)
        starts = torch.arange(len(images))[:, None] * rebuild[0].numel()
        targets = patchify(images, self.block_voxels).flatten(0, 1)
        targets = targets.index_select(0, (blocks + starts).flatten().to(images.device))
        whole = torch.ones(len(targets), *self.block_size, dtype=torch.bool, device=images.device)
        kept = None if channels is None else channels.repeat_interleave(blocks.shape[1], 0)
        return self.losses(targets, rebuilt, whole, kept)

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
            scores = image_scores(rebuilt["pixel"].float(), images, voxels, spacing=self.spacing)
            return Monitored(terms | scores, {"reconstructions": picture})

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the reconstruction of held-out crops."""
        return (
            f"Reconstruction of held-out crops: PSNR {latest['psnr']:.2f} dB on masked voxels, "
            f"{latest['psnr_mean_fill']:.2f} dB for filling with the mean; SSIM {latest['ssim']:.3f} against "
            f"{latest['ssim_mean_fill']:.3f}"
        )


def _numbers(chosen: Tensor) -> Tensor:
    """Return the raster numbers of chosen blocks, (B, K) on the CPU, from booleans (B, *blocks)."""
    chosen = chosen.cpu().flatten(1)
    if len(counts := chosen.sum(1).unique()) > 1:
        raise ValueError(f"samples have between {counts[0]} and {counts[-1]} blocks to rebuild, expected equally many")
    return chosen.nonzero()[:, 1].reshape(len(chosen), -1)
