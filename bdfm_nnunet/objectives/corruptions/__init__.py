"""Corruptions of images, as functions of random fields: what is drawn and what is done with it are apart."""

from bdfm_nnunet.objectives.corruptions.patch_noise import (
    PatchFill,
    choose_patches,
    chosen_voxels,
    patch_grid,
    replace_patches,
)
from bdfm_nnunet.objectives.corruptions.published_corruptions import (
    published_frequency_corruption,
    published_image_corruption,
)
from bdfm_nnunet.objectives.corruptions.spectral_fills import SpectralFill, mask_spectrum, perturb_low_frequencies
from bdfm_nnunet.objectives.corruptions.spectral_masks import Curve, patch_mask, radial_mask
from bdfm_nnunet.objectives.corruptions.two_branches import corrupt, default_patch, draw_corruptions, mask_cutoff

__all__ = [
    "Curve",
    "PatchFill",
    "SpectralFill",
    "choose_patches",
    "chosen_voxels",
    "corrupt",
    "default_patch",
    "draw_corruptions",
    "mask_cutoff",
    "mask_spectrum",
    "patch_grid",
    "patch_mask",
    "perturb_low_frequencies",
    "published_frequency_corruption",
    "published_image_corruption",
    "radial_mask",
    "replace_patches",
]
