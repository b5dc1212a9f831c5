"""What plans take over from a checkpoint: axes, spacing, normalisation and patch of the images it was trained on."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.nnunet_files import resolve_configuration

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


def read_likeness(path: str | Path, spacing: str | Sequence[float] | None = None, *, axes: int = 3) -> Likeness:
    """Read from a checkpoint what plans take over.

    Args:
        path: a checkpoint of any project that says what its images were.
        spacing: a name in `SPACING_MODES`, or three millimetres; by default the checkpoint's, or each image's own where
            the checkpoint was trained without resampling.
        axes: of the images of the data set: 4 for runs, time included.

    Raises:
        InputError: the checkpoint cannot be read or says nothing of its images, or there is no such spacing.
    """
    checkpoint = read_checkpoint(os.path.expanduser(path))
    images = checkpoint.images
    if images is None or len(images.axes) < 3:
        raise InputError(
            f"{path} does not say what images it was trained on (plans of nnU-Net, or an entry of nnssl): plan without "
            "--like, with --network"
        )
    if len(images.axes) != axes:
        raise InputError(
            f"{path} was trained on {len(images.axes)}-D images, those of the data set are {axes}-D: give another "
            "checkpoint, or plan without --like"
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
    good = (
        not fault_of(patch, [int])
        and len(patch) == len(images.axes)
        and all(0 < size <= LARGEST_PATCH for size in patch)
    )
    return tuple(patch) if good else None
