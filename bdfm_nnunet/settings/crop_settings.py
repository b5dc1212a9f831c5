"""Settings that all pre-training objectives have."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings.value_checks import positive, share, share_below_one


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Settings of every pre-training objective: crops, augmentation and pictures.

    Attributes:
        channels: "single" makes every modality of a case a separate sample; "all" feeds them together.
        augmentation: "mirror" flips each axis of half of the training crops; "spatial" also rotates a fifth of them by
            up to 30 degrees per axis and scales a fifth by 0.7 to 1.4, as nnU-Net does; "none" does nothing.
        random_contrast: share of the training crops that get another contrast, made up from their own intensities,
            before anything else is done with them: what is rebuilt, too, is the crop of that contrast.
        channel_dropout: with "all", probability that a training step leaves a channel of a sample out (0 everywhere),
            never all of them; what is left out is not rebuilt, and the two views of a pair lack different ones.
        picture_every: epochs between two pictures of validation crops.
    """

    channels: Literal["single", "all"] = "single"
    augmentation: Literal["mirror", "none", "spatial"] = "mirror"
    random_contrast: float = 0.0
    channel_dropout: float = 0.0
    picture_every: int = 10

    def __post_init__(self) -> None:
        positive(self, "picture_every")
        share(self, "random_contrast")
        share_below_one(self, "channel_dropout")
        if self.channel_dropout and self.channels == "single":
            raise InputError(
                f"channel_dropout is {self.channel_dropout:g}, but with channels=single each sample has one channel: "
                "set pretraining.channels=all, or leave it out"
            )
