"""Frepa: corrupt images in space or frequency, rebuild them, and let two corruptions of an image agree."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.losses import gradient_loss, high_frequency_loss, rmse_loss
from bdfm_nnunet.losses.joined_batches import gather_rows
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.objectives.corruptions import corrupt, draw_corruptions, mask_cutoff
from bdfm_nnunet.objectives.embedding_consistency import consistency_loss, embedding_scores
from bdfm_nnunet.objectives.image_monitors import detail_panels, detail_scores
from bdfm_nnunet.objectives.pixel_decoders import pixel_decoder
from bdfm_nnunet.objectives.reconstruction_scores import reconstruction_scores
from bdfm_nnunet.settings import FrequencyCorruptionSettings, read_block
from bdfm_nnunet.step_checks import check_decoder


class FrequencyCorruption(Objective):
    """Frepa (https://arxiv.org/abs/2407.14651) in any number of axes, aware of the spacing.

    By chance an image loses the content of patches to noise with their histogram, or frequencies of its spectrum; the
    encoder never sees a mask token, so any network fits. The losses are RMSE, the error of first differences and the
    high-frequency loss of the reconstruction. Two corruptions of an image, encoded in one forward pass, shall have one
    embedding: weight times 1 - cosine, by default without a stop-gradient. (The publication calls this adversarial or
    consistency learning; its code has neither.) The preset "frepa_published" has corruptions and losses as coded.

    With `adversarial` = a, the loss is first differentiated with respect to two factors f = 1 of each corruption, that
    of the replacement and that of the low-frequency perturbation. Each becomes 1 + a s, where s, the relative change of
    the sample's loss per relative change of f, is limited to [-1, 1]; then the image is corrupted again. Batch norms
    see both passes. Validation does without.

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: all other settings.
        spacing: millimetres per voxel and axis; 1 by default.

    Example:
        >>> from bdfm_nnunet.networks.encoders import encoder_of
        >>> from bdfm_nnunet.networks.swin_unet import SwinUNet
        >>> network = SwinUNet(
        ...     1, 2, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> objective = FrequencyCorruption(encoder_of(network), spacing=(1.0, 1.0, 2.0))
        >>> drawn = objective.draw(2, (32, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> sorted(objective(torch.rand(2, 1, 32, 32, 32), **drawn))
        ['consistency', 'gradient', 'high_frequency', 'loss', 'rmse']
    """

    settings_class = FrequencyCorruptionSettings
    uses_channels = True
    progress = ("recovered", True)
    settings: FrequencyCorruptionSettings

    def __init__(
        self,
        view: EncoderView,
        settings: FrequencyCorruptionSettings | None = None,
        *,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(view, settings, spacing=spacing)
        settings = self.settings
        self.views = 2 if settings.consistency_weight else 1
        self.encoder_forwards = 2 if settings.adversarial else 1
        self.pixel_decoder = pixel_decoder(view, settings.decoder, settings.decoder_channels, view.in_channels)
        self.stem, self.decoder = (view.stem, view.decoder) if settings.decoder == "network" else (None, None)
        self.panels = _panels(self.views)
        self._corrupts = True

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: FrequencyCorruptionSettings) -> None:
        """Raise InputError if no frequency would be masked, or there is no other image to take frequencies from."""
        check_decoder(configuration, settings.decoder)
        spacing = [float(step) for step in configuration["spacing"]]
        highest = 0.5 / min(spacing)
        if mask_cutoff(settings, spacing) >= highest:
            raise InputError(
                f"pretraining.mask_cutoff is {settings.mask_cutoff} cycles/mm, but images of {spacing} mm per voxel "
                f"have frequencies up to {highest:g} on an axis: choose a smaller one"
            )
        if settings.spectral_fill != "other_image":
            return
        batch, accumulate = configuration["batch_size"], read_block(configuration, "training").accumulate
        if batch < 2 or accumulate > 1:
            raise InputError(
                f"pretraining.spectral_fill is other_image, but a batch of {batch} in {accumulate} micro-batches does "
                "not hold another image for each: plan a batch of 2 or more with training.accumulate=1"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses of the reconstruction, and of the agreement of two corruptions if it has a weight."""
        return ("rmse", "gradient", "high_frequency") + (("consistency",) if self.views > 1 else ())

    def make_countable(self) -> None:
        """Leave out the corruption, whose way depends on what is drawn."""
        self._corrupts = False

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the corruptions of a step, one or two per sample."""
        return draw_corruptions(batch, self.settings, views=self.views, generator=generator)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction of corrupted images (B, C, *spatial), and the features of the last stage.

        Raises:
            ValueError: the images are no multiple of the encoder's total stride.
        """
        strides = self.view.strides[-1]
        if any(size % step for size, step in zip(images.shape[2:], strides, strict=True)):
            raise ValueError(f"images of {tuple(images.shape[2:])} voxels are no multiple of the stride {strides}")
        features = list(self.encoder(images))
        finest = [] if self.stem is None else [self.stem(images)]
        return self.pixel_decoder([*finest, *features]), features[-1]

    def forward(  # type: ignore[override]
        self, images: Tensor, *, channels: Tensor | None = None, **drawn: Tensor
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            images: (B, C, *spatial), each axis a multiple of the encoder's total stride.
            channels: boolean (B, C), False where the images lack a channel (0), which is neither corrupted nor rebuilt;
                by default none.
            drawn: result of `draw` for these samples.

        Returns:
            "loss" and its unweighted terms, scalars.
        """
        repeated, flat = self._repeated(images, drawn)
        if channels is not None:
            flat["channels"] = channels.repeat_interleave(self.views, 0)
        if self.settings.adversarial and self._corrupts:
            flat = {**flat, "strengths": self._harder(repeated, flat)}
        corrupted, voxels = self._corrupt(repeated, flat)
        rebuilt, features = self.reconstruct(corrupted)
        return self._losses(_shown(rebuilt, flat), repeated, voxels, features)

    def _repeated(self, images: Tensor, drawn: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each image once per corruption, (B views, C, *spatial), and the draws in the same order."""
        repeated = images.repeat_interleave(self.views, 0)
        flat = {name: value.flatten(0, 1) for name, value in drawn.items() if name != "partner"}
        if self.settings.spectral_fill == "other_image" and self._corrupts:
            whole, _ = gather_rows(images.contiguous())
            flat["others"] = whole[drawn["partner"]].repeat_interleave(self.views, 0)
        return repeated, flat

    def _corrupt(self, images: Tensor, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if not self._corrupts:
            return images, torch.ones_like(images[:, 0], dtype=torch.bool)
        drawn = {name: value for name, value in flat.items() if name not in ("others", "strengths", "channels")}
        corrupted, voxels = corrupt(
            images,
            drawn,
            self.settings,
            spacing=self.spacing,
            others=flat.get("others"),
            strengths=flat.get("strengths"),
        )
        return _shown(corrupted, flat), voxels

    @torch._disable_dynamo  # it differentiates inside of a forward pass
    def _harder(self, images: Tensor, flat: Mapping[str, Tensor]) -> Tensor:
        """Return the factors of the corruptions after a step along the gradient, (B, 2)."""
        with torch.enable_grad():
            factors = torch.ones(len(images), 2, device=images.device, requires_grad=True)
            corrupted, voxels = self._corrupt(images, {**flat, "strengths": factors})
            rebuilt, _ = self.reconstruct(corrupted)
            loss = self._reconstruction_loss(_shown(rebuilt, flat), images, voxels)
            (gradient,) = torch.autograd.grad(loss.sum(), factors)
        change = gradient / loss.detach().clamp_min(1e-12).unsqueeze(1)
        return 1 + self.settings.adversarial * change.clamp(-1, 1)

    def _reconstruction_terms(self, rebuilt: Tensor, images: Tensor, voxels: Tensor) -> dict[str, Tensor]:
        """Return the losses of each sample, (B,); with `legacy_losses` that of the batch for each."""
        settings = self.settings
        mask = voxels if settings.loss_on == "masked" else None
        legacy = settings.legacy_losses
        spacing = None if legacy else self.spacing
        return {
            "rmse": rmse_loss(rebuilt, images, mask=mask, legacy=legacy, reduction="none"),
            "gradient": gradient_loss(rebuilt, images, spacing=spacing, mask=mask, reduction="none"),
            "high_frequency": high_frequency_loss(
                rebuilt, images, spacing=spacing, cutoffs=settings.cutoffs, mask=mask, legacy=legacy, reduction="none"
            ),
        }

    def _reconstruction_loss(self, rebuilt: Tensor, images: Tensor, voxels: Tensor) -> Tensor:
        return self._weighted(self._reconstruction_terms(rebuilt, images, voxels))

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        settings = self.settings
        return (
            settings.rmse_weight * terms["rmse"]
            + settings.gradient_weight * terms["gradient"]
            + settings.high_frequency_weight * terms["high_frequency"]
        )

    def _losses(self, rebuilt: Tensor, images: Tensor, voxels: Tensor, features: Tensor) -> dict[str, Tensor]:
        terms = self._reconstruction_terms(rebuilt, images, voxels)
        found = {name: values.mean() for name, values in terms.items()}
        found["loss"] = self._weighted(terms).mean()
        if self.views > 1:
            found["consistency"] = consistency_loss(
                features, part=self.settings.consistency, stop_gradient=self.settings.stop_gradient
            )
            found["loss"] = found["loss"] + self.settings.consistency_weight * found["consistency"]
        return found

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Rebuild corrupted images and score them beside the corrupted images as they are; look for collapse.

        Args:
            images: (B, C, *spatial).
            drawn: result of `draw` for these samples.
        """
        repeated, flat = self._repeated(images, drawn)
        corrupted, voxels = self._corrupt(repeated, flat)
        rebuilt, features = self.reconstruct(corrupted)
        values = self._losses(rebuilt, repeated, voxels, features)
        cutoff = mask_cutoff(self.settings, self.spacing)
        for name, guess in (("", rebuilt), ("_corrupted", corrupted)):
            scores = reconstruction_scores(guess, repeated, spacing=self.spacing, cutoff=cutoff)
            details = detail_scores(guess.float(), repeated, spacing=self.spacing)
            scores |= {score: value.nanmean() for score, value in details.items()}
            values |= {f"{score}{name}": value for score, value in scores.items()}
        values |= embedding_scores(features, views=self.views)
        picture = Picture(images[0, 0], {"corrupted": corrupted[0, 0], "network": rebuilt[0, 0].float()})
        return Monitored(values, {"reconstructions": picture})

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the reconstruction of held-out crops, and a warning if the embeddings collapsed."""
        sentence = (
            f"Reconstruction of held-out corrupted crops: PSNR {latest['psnr']:.2f} dB, "
            f"{latest['psnr_corrupted']:.2f} dB for the corrupted crop itself; "
            f"{100 * latest['recovered']:.1f} % of the power at high frequencies recovered, "
            f"{100 * latest['recovered_corrupted']:.1f} % in the corrupted crop"
        )
        spread, rank = latest["embedding_spread"], latest["effective_rank"]
        if spread >= self.settings.collapse_below and rank >= 2:
            return sentence
        return (
            f"{sentence}. WARNING: the embeddings have collapsed (spread {spread:.3f}, expected "
            f"{self.settings.collapse_below:g} or more; effective rank {rank:.1f}, expected 2 or more): lower "
            "pretraining.consistency_weight, or set pretraining.stop_gradient to true"
        )


def _shown(images: Tensor, flat: Mapping[str, Tensor]) -> Tensor:
    """Return images with 0 in the channels that are left out, if there are any."""
    return only_channels(images, flat["channels"]) if "channels" in flat else images


def _panels(views: int) -> Mapping[str, Mapping[str, str]]:
    embeddings = {"spread": "embedding_spread"}
    if views > 1:
        embeddings["cosine of two corruptions"] = "embedding_cosine"
    return MappingProxyType(
        {
            "PSNR [dB]": {"network": "psnr", "corrupted crop": "psnr_corrupted"},
            "share of high frequencies": {"network": "recovered", "corrupted crop": "recovered_corrupted"},
            "high-frequency loss": {"network": "hfl", "corrupted crop": "hfl_corrupted"},
            **detail_panels("corrupted crop", "corrupted"),
            "embeddings": embeddings,
            "effective rank of the embeddings": {"effective rank": "effective_rank"},
        }
    )
