"""Masked modelling of 4-D images: NeuroSTORM (Wang et al. 2025, https://arxiv.org/abs/2506.11167).

Shapes: images (B, C, X, Y, Z, T); masks are boolean over tokens (B, *grid), True = masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.frequency import at_least_single
from bdfm_nnunet.hashed_noise import draw_keys
from bdfm_nnunet.losses import sequence_mse
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.networks.mamba_stages import MambaBlock
from bdfm_nnunet.networks.masked_neurostorm import MaskTokens, TokenKind
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.neurostorm_decoder import NeurostormDecoder
from bdfm_nnunet.networks.redundancy_dropout import RedundancyDropout
from bdfm_nnunet.objectives.base import Monitored, Objective
from bdfm_nnunet.objectives.clip_augmentation import changed_clips, draw_clip_changes, moved
from bdfm_nnunet.objectives.sequence_masks import SequenceMasking, token_regions
from bdfm_nnunet.objectives.sequence_scores import (
    changing_voxels,
    clip_picture,
    constant_guess,
    previous_guess,
    token_shares,
)
from bdfm_nnunet.settings import SequenceSettings


class SequenceModelling(Objective):
    """NeuroSTORM: mask tokens of a clip, encode it, rebuild the voxels of the masked tokens from the last features.

    Parts are named as in `MaskedNeurostorm`, so weights of one fit the other.

    Args:
        view: a `NeurostormEncoder`, see `encoder_of`.
        settings: all other settings.
        spacing: millimetres per voxel along x, y and z, and, if need be, seconds per frame; 1 by default.

    Attributes:
        mask_tokens: what stands for masked tokens.
        decoder: rebuilds images from the encoder's last features.

    Raises:
        InputError: the encoder is another one.

    Example:
        >>> from bdfm_nnunet.networks.encoders import encoder_of
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(8, 8, 8, 4), patch_size=(2, 2, 2, 1), features=(4, 8), depths=(2, 1),
        ...     merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2),
        ... )
        >>> objective = SequenceModelling(encoder_of(encoder), SequenceSettings(mask_window=(2, 2, 2, 2)))
        >>> drawn = objective.draw(2, (8, 8, 8, 6), generator=torch.Generator().manual_seed(0))
        >>> sorted(objective(torch.rand(2, 1, 8, 8, 8, 6), **drawn))
        ['loss']
    """

    settings_class = SequenceSettings
    settings: SequenceSettings
    reads_clips = True
    uses_brain = True
    uses_regions = True
    suits_adamw = True
    progress = ("error", False)
    panels: Mapping[str, Mapping[str, str]] = MappingProxyType(
        {
            "squared error of the masked brain": {
                "network": "error",
                "constant": "error_constant",
                "previous frame": "error_previous",
            }
        }
    )

    def __init__(
        self,
        view: EncoderView,
        settings: SequenceSettings | None = None,
        *,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(view, settings, spacing=spacing)
        encoder, settings = view.module, self.settings
        if not isinstance(encoder, NeurostormEncoder) or view.axes != 4:
            raise InputError(
                f"{type(encoder).__name__} reads images of {view.axes} axes, but 4-D images are rebuilt by a "
                "NeurostormEncoder: plan one, or choose another trainer"
            )
        self.patch_size = view.strides[0]
        self.masking = SequenceMasking(
            kind=settings.mask, ratio=settings.mask_ratio, window=settings.mask_window, legacy=settings.legacy_masks
        )
        self.token_kind: TokenKind = "window" if settings.mask == "tube" else settings.mask
        self.mask_tokens = MaskTokens(view.mask_channels, settings.mask_window)
        for name, token in self.mask_tokens.named_parameters():
            token.requires_grad_(name == self.token_kind)  # processes wait for the gradient of all that train
        self.decoder = NeurostormDecoder(encoder)
        self.atlas = None if settings.atlas is None else Path(settings.atlas)
        if settings.redundancy_dropout:
            self._add_dropouts(encoder)

    def _add_dropouts(self, encoder: NeurostormEncoder) -> None:
        """Give each block of the encoder a dropout; they are silent where a pass through it has no keys."""
        for number, block in enumerate(each for each in encoder.modules() if isinstance(each, MambaBlock)):
            target, legacy = self.settings.redundancy_dropout, self.settings.legacy_dropout
            block.dropout = RedundancyDropout(target, stream=number, legacy=legacy)

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: SequenceSettings) -> None:
        """Raise InputError unless the crops of a configuration are 4-D, and masks of an atlas have one."""
        if len(crop := list(configuration["patch_size"])) != 4:
            raise InputError(
                f"crops of {crop} voxels have {len(crop)} axes, but clips of 4-D images have 4: plan a data set of "
                "sequences, or choose another trainer"
            )
        if (settings.mask == "atlas") != (settings.atlas is not None):
            raise InputError(
                f"pretraining.mask is {settings.mask} and pretraining.atlas is {settings.atlas}: masks of an atlas, "
                "and only they, need a label map in the space of the runs"
            )

    def make_countable(self) -> None:
        """Mask windows, rounded to the nearest number: other masks depend on what tensors hold, and cost as much."""
        self.masking = replace(self.masking, kind="window", legacy=False)

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the numbers that decide masks, what is dropped, and the augmentation, see `draw_clip_changes`."""
        keys = {name: draw_keys(batch, generator=generator) for name in ("mask_keys", "dropout_keys")}
        changes = draw_clip_changes(batch, spatial, self.settings, spacing=self.spacing, generator=generator)
        return keys | changes

    def mask(
        self, keys: Tensor, spatial: Sequence[int], *, brain: Tensor | None = None, regions: Tensor | None = None
    ) -> Tensor:
        """Return the masks (B, *grid) of images.

        Args:
            keys: (B, 2), from `draw`.
            spatial: voxels per axis and frames.
            brain: boolean (B, X, Y, Z); by default every voxel is.
            regions: whole numbers (B, X, Y, Z), 0 for background; for masks of an atlas.

        Raises:
            ValueError: the images are no whole number of tokens.
            InputError: there is nothing to choose from.
        """
        if any(size % step for size, step in zip(spatial, self.patch_size, strict=True)):
            raise ValueError(f"images of {tuple(spatial)} voxels cannot be rebuilt from tokens of {self.patch_size}")
        grid = [size // step for size, step in zip(spatial, self.patch_size, strict=True)]
        shares = None if brain is None else token_shares(brain, self.patch_size[:-1])
        atlas = regions is not None and self.masking.kind == "atlas"
        labels = token_regions(regions, self.patch_size[:-1]) if regions is not None and atlas else None
        return self.masking.masks(keys, grid, brain=shares, regions=labels)

    def reconstruct(self, images: Tensor, *, mask: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Return the images rebuilt from what a mask leaves visible, same shape; with keys tokens are dropped."""
        features = self.encoder(images, lambda tokens: self.mask_tokens(tokens, mask, self.token_kind), dropout_keys)
        rebuilt: Tensor = self.decoder(features[-1])
        return rebuilt

    def loss(self, images: Tensor, rebuilt: Tensor, mask: Tensor, brain: Tensor | None) -> Tensor:
        """Return the loss of reconstructions, see `sequence_mse`."""
        window = self.settings.mask_window if self.token_kind == "window" else None
        return sequence_mse(rebuilt, images, mask, brain=brain, region=self.settings.loss_region, unit=window)

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        *,
        mask_keys: Tensor,
        dropout_keys: Tensor | None = None,
        brain: Tensor | None = None,
        regions: Tensor | None = None,
        **changes: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            images: (B, C, X, Y, Z, T).
            mask_keys: from `draw`.
            dropout_keys: from `draw`; without them no token is dropped.
            brain: boolean (B, X, Y, Z); by default voxels that change from frame to frame.
            regions: whole numbers (B, X, Y, Z), 0 for background; for masks of an atlas.
            changes: the augmentation from `draw`; without it the images stay as they are.

        Returns:
            "loss", a scalar.
        """
        with torch.no_grad():
            brain = changing_voxels(images) if brain is None else brain.bool()
            if "matrix" in changes:
                brain = moved(brain[:, None].float(), changes["matrix"])[:, 0] > 0.5
                if regions is not None:
                    regions = moved(regions[:, None].float(), changes["matrix"], nearest=True)[:, 0].long()
                same = self.settings.legacy_noise
                images = changed_clips(at_least_single(images), changes, brain=brain, same_noise=same)
            mask = self.mask(mask_keys, images.shape[2:], brain=brain, regions=regions)
        rebuilt = self.reconstruct(images, mask=mask, dropout_keys=dropout_keys)
        return {"loss": self.loss(images, rebuilt, mask, brain)}

    def monitor(  # type: ignore[override]
        self,
        images: Tensor,
        *,
        mask_keys: Tensor,
        brain: Tensor | None = None,
        regions: Tensor | None = None,
        **drawn: Tensor,
    ) -> Monitored:
        """Rebuild clips without augmentation, and score the masked brain beside two guesses that need no network.

        Args:
            images: (B, C, X, Y, Z, T).
            mask_keys: from `draw`.
            brain: as in `forward`.
            regions: as in `forward`.
            drawn: the rest of `draw`, which has no effect.
        """
        brain = changing_voxels(images) if brain is None else brain.bool()
        mask = self.mask(mask_keys, images.shape[2:], brain=brain, regions=regions)
        rebuilt = at_least_single(self.reconstruct(images, mask=mask))
        images, hidden = at_least_single(images), upsample(mask, self.patch_size)
        guesses = {
            "error": rebuilt,
            "error_constant": constant_guess(images, hidden, brain),
            "error_previous": previous_guess(images, hidden, brain),
        }
        errors = {name: sequence_mse(guess, images, mask, brain=brain) for name, guess in guesses.items()}
        picture = clip_picture(images, rebuilt, hidden, brain, guess=guesses["error_previous"])
        values = {"loss": self.loss(images, rebuilt, mask, brain), **errors}
        return Monitored(values, {"reconstructions": picture})

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the reconstruction of held-out clips, with a warning where a constant does as well."""
        error, constant, previous = (latest[name] for name in self.monitors)
        found = (
            f"Reconstruction of held-out clips: squared error {error:.4g} on the masked brain, {constant:.4g} for its "
            f"mean and {previous:.4g} for the previous frame"
        )
        if error < constant:
            return found
        return f"{found}. WARNING: it is no better than a constant: train longer, or change training.initial_lr"
