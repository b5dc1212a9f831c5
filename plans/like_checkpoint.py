"""Plans like those of a checkpoint: its axes, spacing, normalisation and patch, for any network.

nnU-Net's development branch has the same four ways to choose the spacing for weights of nnssl
(`nnUNetv2_preprocess_like_nnssl -am`).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from nnunetv2.preprocessing.resampling.no_resampling import no_resampling_hack

from bdfm_nnunet.plans.likeness import Likeness
from bdfm_nnunet.plans.planners import OurPlanner

logger = logging.getLogger(__name__)


class LikeCheckpoint(OurPlanner):
    """What a planner takes from a checkpoint, for a class that is mixed with one that plans a network.

    Attributes:
        likeness: set by the subclass.
    """

    likeness: Likeness

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return the name of a separate folder: spacing and normalisation are not those of other plans."""
        return f"{self.plans_identifier}_{configuration_name}"

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """Return the checkpoint's order of axes."""
        forward = list(self.likeness.images.axes)
        return forward, [forward.index(axis) for axis in range(len(forward))]

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Return the spacing that was chosen."""
        spacing = self.likeness.spacing
        if spacing == "like_pretrained":
            return np.array(self.likeness.images.spacing)
        if isinstance(spacing, tuple):
            return np.array(spacing)
        own: np.ndarray = super().determine_fullres_target_spacing()
        return own

    def determine_resampling(self, *args: Any, **settings: Any) -> Any:
        """Return nnU-Net's functions, or none that resample."""
        if self.likeness.spacing == "no_resample":
            return no_resampling_hack, {}, no_resampling_hack, {}
        return super().determine_resampling(*args, **settings)

    def determine_segmentation_softmax_export_fn(self, *args: Any, **settings: Any) -> Any:
        """Return nnU-Net's function, or one that resamples nothing."""
        if self.likeness.spacing == "no_resample":
            return no_resampling_hack, {}
        return super().determine_segmentation_softmax_export_fn(*args, **settings)

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """Return the checkpoint's normalisation, channel by channel, or one for all if it has only one kind."""
        images = self.likeness.images
        schemes, masked = list(images.normalisation), cast(list[bool], list(images.masked))  # nnU-Net's None counts too
        if len(schemes) == self.input_channels:
            return schemes, masked
        if len(set(zip(schemes, masked))) == 1:
            return [schemes[0]] * self.input_channels, [masked[0]] * self.input_channels
        own: tuple[list[str], list[bool]] = super().determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        logger.warning(
            "%s normalises its %d channels differently (%s), which cannot be carried over to %d channels: "
            "the data set's own normalisation is used (%s)",
            self.likeness.path,
            len(schemes),
            ", ".join(schemes),
            self.input_channels,
            ", ".join(own[0]),
        )
        return own


class PatchOfCheckpoint(LikeCheckpoint):
    """A planner that plans for images of the size of the checkpoint's patch, so that its patch is no larger."""

    def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *args: Any) -> dict[str, Any]:
        """Plan one configuration; see nnU-Net."""
        patch = self.likeness.patch
        if patch is None or len(spacing) != len(patch):
            return cast(dict[str, Any], super().get_plans_for_configuration(spacing, median_shape, *args))
        plan: dict[str, Any] = super().get_plans_for_configuration(spacing, np.array(patch, dtype=float), *args)
        plan["median_image_size_in_voxels"] = median_shape
        if tuple(plan["patch_size"]) != patch:
            logger.warning(
                "the patch is %s, that of %s %s: give more --gpu-memory, or a network whose strides divide it",
                " x ".join(map(str, plan["patch_size"])), self.likeness.path, " x ".join(map(str, patch)),
            )  # fmt: skip
        return plan


def planner_like(planner: Any, likeness: Likeness) -> Callable[..., OurPlanner]:
    """Return what makes the planner of a network that takes the rest from a checkpoint.

    Args:
        planner: a subclass of `OurPlanner`, or a partial call of one.
        likeness: what is taken over.
    """
    base: Any = planner.func if isinstance(planner, partial) else planner
    settings = planner.keywords if isinstance(planner, partial) else {}
    kind = type(f"{base.__name__}Like", (PatchOfCheckpoint, base), {"likeness": likeness})
    return partial(cast(Callable[..., OurPlanner], kind), **settings)
