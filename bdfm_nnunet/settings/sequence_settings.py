"""Settings of pre-training on 4-D images."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings.crop_settings import CropSettings
from bdfm_nnunet.settings.value_checks import at_least_zero, ordered, positive, share


@dataclass(frozen=True, kw_only=True)
class SequenceSettings(CropSettings):
    """Masked modelling of 4-D images. The defaults are NeuroSTORM with the faults of its public code corrected.

    Attributes:
        augmentation: of the loaded clip, before the parts below; see `CropSettings`.
        mask: what is masked as a whole: a "window" of tokens, single tokens ("random"), the same window in space in all
            frames ("tube"), or a region of an atlas ("atlas").
        atlas: for masks of an atlas, a label map (NIfTI) in the space of the runs, 0 for background; its nearest voxel
            is taken for each voxel of a run.
        mask_ratio: share of these that is masked, of those that hold brain; at least one, and never all.
        mask_window: tokens of a window along x, y, z and t; the last ones are cut off where they do not fit. Regions
            are drawn anew after as many frames.
        loss_region: where errors count: in the "brain", as a mean per sample, or in "all" voxels of what is masked, as
            a mean over the whole batch (published).
        redundancy_dropout: share of tokens whose scan is dropped in training, those most that their neighbours in space
            and time repeat; 0 for none, as in all published configurations.
        p_affine: probability of a rotation and scaling, the same in all frames of a clip.
        degrees: largest angle about each axis, in mm and not in voxels.
        scaling: least and largest factor along each axis; above 1 a clip shows more.
        p_smoothing: probability of a Gaussian filter in space.
        smoothing: its least and largest standard deviation in voxels.
        p_noise: probability of normal noise, another one in each frame.
        noise: its standard deviation, relative to that of the brain.
        legacy_masks: mask as published: without regard to the brain, rounded down, the same regions in all frames.
        legacy_noise: the same noise in all frames, as published.
        legacy_dropout: the published probabilities in place of `redundancy_dropout`'s share, which then only switches
            the dropout on; and no scaling of what stays.
    """

    augmentation: Literal["mirror", "none", "spatial"] = "none"
    mask: Literal["window", "random", "tube", "atlas"] = "window"
    atlas: str | None = None
    mask_ratio: float = 0.5
    mask_window: tuple[int, ...] = (4, 4, 4, 4)
    loss_region: Literal["brain", "all"] = "brain"
    redundancy_dropout: float = 0.0
    p_affine: float = 1.0
    degrees: float = 10.0
    scaling: tuple[float, ...] = (0.9, 1.1)
    p_smoothing: float = 0.1
    smoothing: tuple[float, ...] = (0.0, 0.5)
    p_noise: float = 0.3
    noise: float = 0.1
    legacy_masks: bool = False
    legacy_noise: bool = False
    legacy_dropout: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "mask_window", "scaling")
        at_least_zero(self, "degrees", "noise")
        share(self, "p_affine", "p_smoothing", "p_noise")
        ordered(self, "scaling")
        ordered(self, "smoothing")
        if len(self.mask_window) != 4:
            raise InputError(f"mask_window is {list(self.mask_window)}, expected tokens along x, y, z and t")
        if not 0 < self.mask_ratio < 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}, expected a number between 0 and 1, both excluded")
        if not 0 <= self.redundancy_dropout < 0.9:
            raise InputError(f"redundancy_dropout is {self.redundancy_dropout}, expected a share from 0 to below 0.9")
