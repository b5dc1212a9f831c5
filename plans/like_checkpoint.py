"""Plans like those of a checkpoint: its axes, spacing, normalisation and patch, for any network.

nnU-Net's development branch has the same four ways to choose the spacing for weights of nnssl
(`nnUNetv2_preprocess_like_nnssl -am`).
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from nnunetv2.preprocessing.resampling.no_resampling import no_resampling_hack

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.plans.planners import OurPlanner

logger = logging.getLogger(__name__)

SpacingMode = Literal["like_pretrained", "default", "no_resample"]
SPACING_MODES = ("like_pretrained", "default", "no_resample")
LARGEST_PATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What plans take over from a checkpoint.

    Attributes:
        path: the checkpoint.
        images: order of the axes, spacing and normalisation of the images it was trained on.
        patch: voxels per axis of its patch, in the order of its plans' axes; None where it is not known.
        spacing: the checkpoint's, the one that nnU-Net would choose for the data set, each image's own, or millimetres
            along the axes of nnU-Net's arrays.
    """

    path: Path
    images: ExpectedImages
    patch: tuple[int, ...] | None
    spacing: SpacingMode | tuple[float, ...]


def read_likeness(path: str | Path, spacing: str | Sequence[float] | None = None) -> Likeness:
    """Read from a checkpoint what plans take over.

    Args:
        path: a checkpoint of any project that says what its images were.
        spacing: a name in `SPACING_MODES`, or three millimetres; by default the checkpoint's, or each image's own where
            the checkpoint was trained without resampling.

    Raises:
        InputError: the checkpoint cannot be read or says nothing of its images, or there is no such spacing.
    """
    checkpoint = read_checkpoint(os.path.expanduser(path))
    images = checkpoint.images
    if images is None or len(images.axes) != 3:
        raise InputError(
            f"{path} does not say what images it was trained on (plans of nnU-Net, or an entry of nnssl): plan without "
            "--like, with --network"
        )
    if images.spacing == () and spacing == "like_pretrained":
        raise InputError(f"{path} was trained on images of any spacing: take --spacing no_resample, default or X,Y,Z")
    chosen = spacing or ("like_pretrained" if images.spacing else "no_resample")
    if not isinstance(chosen, str):
        chosen = tuple(float(step) for step in chosen)
        if len(chosen) != 3 or not all(0.001 <= step <= 1000 for step in chosen):
            raise InputError(f"--spacing is {','.join(map(str, chosen))}, expected three numbers of 0.001 to 1000 mm")
    elif chosen not in SPACING_MODES:
        raise InputError(f"--spacing {chosen} does not exist: take {', '.join(SPACING_MODES)} or three millimetres")
    return Likeness(path=checkpoint.path, images=images, patch=_patch_of(checkpoint, images), spacing=cast(Any, chosen))


def _patch_of(checkpoint: Checkpoint, images: ExpectedImages) -> tuple[int, ...] | None:
    plans, name = checkpoint.plans, checkpoint.configuration
    patch: Any = images.patch
    if plans and name and not fault_of(plans, {"configurations": {str: {"inherits_from?": (str, None)}}}):
        with suppress(InputError):
            patch = resolve_configuration(plans, name).get("patch_size")
    good = not fault_of(patch, [int]) and len(patch) == 3 and all(0 < size <= LARGEST_PATCH for size in patch)
    return tuple(patch) if good else None


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
