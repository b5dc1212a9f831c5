"""Settings that all pre-training objectives have."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.settings.value_checks import positive, share


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Settings of every pre-training objective: crops, augmentation and pictures.

    Attributes:
        channels: "single" makes every modality of a case a separate sample; "all" feeds them together.
        augmentation: "mirror" flips each axis of half of the training crops; "spatial" also rotates a fifth of them by
            up to 30 degrees per axis and scales a fifth by 0.7 to 1.4, as nnU-Net does; "none" does nothing.
        random_contrast: share of the training crops that get another contrast, made up from their own intensities,
            before anything else is done with them: what is rebuilt, too, is the crop of that contrast.
        picture_every: epochs between two pictures of validation crops.
    """

    channels: Literal["single", "all"] = "single"
    augmentation: Literal["mirror", "none", "spatial"] = "mirror"
    random_contrast: float = 0.0
    picture_every: int = 10

    def __post_init__(self) -> None:
        positive(self, "picture_every")
        share(self, "random_contrast")
