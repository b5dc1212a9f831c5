"""Images as a network was trained on them: cropped, resampled and normalised as nnU-Net does, by what a file tells.

Arrays are (C, z, y, x) float32, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_channels import check_grid, read_whole
from bdfm_nnunet.json_shapes import fault_of

ASSUMED = ExpectedImages(axes=(0, 1, 2), normalisation=("ZScoreNormalization",), masked=(True,))
"""What is done where a file does not tell: each channel standardised over its non-zero voxels, at its own spacing."""
_CT = {"mean": float, "std": float, "percentile_00_5": float, "percentile_99_5": float}


@dataclass(frozen=True)
class PreparedCase:
    """The image of a case as the network gets it.

    Attributes:
        image: (C, *spatial) in the network's order of axes.
        origin: first voxel of the crop along (z, y, x), in voxels of the file.
        spacing: mm per voxel of the image along (z, y, x).
        foreground: boolean (*spatial), where any channel of the resampled image is not zero.
    """

    image: Tensor
    origin: tuple[int, ...]
    spacing: tuple[float, ...]
    foreground: Tensor


def prepare_case(paths: Sequence[Path], expected: ExpectedImages, plans: Mapping[str, Any] | None) -> PreparedCase:
    """Read the images of a case and prepare them.

    The box of voxels that are non-zero in any channel is cut out, resampled linearly to the expected spacing, and each
    channel is normalised.

    Args:
        paths: one file per channel.
        expected: the images of the training.
        plans: nnU-Net's plans of the training, for CT normalisation; None without.

    Raises:
        InputError: an image cannot be read, the channels lie on different grids, or a normalisation is unknown.
    """
    volumes = [read_whole(path, by_nibabel=True, again="get it again") for path in paths]
    for volume in volumes[1:]:
        check_grid(volume, volumes[0])
    array = np.stack([volume.array.T for volume in volumes]).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{paths[0]} or another channel of it holds values that are not finite: repair it")
    array, origin = _cropped(array)
    spacing = tuple(volumes[0].spacing[::-1])
    image = torch.from_numpy(np.ascontiguousarray(array))
    if expected.spacing:
        image, spacing = _resampled(image, spacing, expected.spacing), expected.spacing
    schemes, masked = schemes_of_channels(expected, len(paths))
    inside = image != 0
    channels = [
        normalised(channel, scheme, inside[at] if use else None, _intensities(plans, at))
        for at, (channel, scheme, use) in enumerate(zip(image, schemes, masked, strict=True))
    ]
    turned = torch.stack(channels).permute(0, *(1 + axis for axis in expected.axes))
    return PreparedCase(turned.contiguous(), origin, spacing, inside.any(0).permute(*expected.axes).contiguous())


def _cropped(array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    filled = np.argwhere((array != 0).any(axis=0))
    if not len(filled):
        return array, (0, 0, 0)
    box = tuple(slice(int(low), int(high) + 1) for low, high in zip(filled.min(0), filled.max(0), strict=True))
    return array[(slice(None), *box)], tuple(side.start for side in box)


def _resampled(image: Tensor, spacing: Sequence[float], wanted: Sequence[float]) -> Tensor:
    sizes = [max(round(n * has / want), 1) for n, has, want in zip(image.shape[1:], spacing, wanted, strict=True)]
    if sizes == list(image.shape[1:]):
        return image
    return functional.interpolate(image[None], sizes, mode="trilinear")[0]


def schemes_of_channels(expected: ExpectedImages, channels: int) -> tuple[Sequence[str], Sequence[bool | None]]:
    """Return the normalisation of each channel, and whether only non-zero voxels were normalised.

    Args:
        expected: images of the training; one scheme for all its channels serves any number.
        channels: of the images.

    Raises:
        InputError: the training normalised other channels in different ways.
    """
    kinds = list(zip(expected.normalisation, expected.masked, strict=True))
    if len(kinds) != channels:
        if len(set(kinds)) != 1:
            raise InputError(
                f"the images have {channels} channels, but the training normalised {len(kinds)} in different ways "
                f"({', '.join(expected.normalisation)}): give images of these channels"
            )
        kinds = kinds[:1] * channels
    return [scheme for scheme, _ in kinds], [mask for _, mask in kinds]


def _intensities(plans: Mapping[str, Any] | None, channel: int) -> Mapping[str, float] | None:
    table = (plans or {}).get("foreground_intensity_properties_per_channel")
    found = table.get(str(channel)) if isinstance(table, Mapping) else None
    return None if fault_of(found, _CT) else found


def normalised(channel: Tensor, scheme: str, inside: Tensor | None, ct: Mapping[str, float] | None) -> Tensor:
    """Return a channel (*spatial) normalised by a scheme of nnU-Net.

    Args:
        channel: the image.
        scheme: class name of nnU-Net's normalisation.
        inside: voxels to which z-scores are confined, those outside become 0; None for all.
        ct: intensities in the training's plans, for CTNormalization.

    Raises:
        InputError: the scheme is unknown, or lacks intensities.
    """
    if scheme == "NoNormalization":
        return channel
    if scheme == "RGBTo01Normalization":
        return channel / 255
    if scheme == "RescaleTo01Normalization":
        return (channel - channel.min()) / (channel.max() - channel.min()).clamp_min(1e-8)
    if scheme == "CTNormalization" and ct is not None:
        clipped = channel.clamp(ct["percentile_00_5"], ct["percentile_99_5"])
        return (clipped - ct["mean"]) / max(ct["std"], 1e-8)
    if scheme != "ZScoreNormalization":
        raise InputError(
            f"the training normalised its images by {scheme}, which cannot be done here (CTNormalization needs the "
            "intensities in the plans): give weights of a training with another normalisation"
        )
    values = channel if inside is None or not inside.any() else channel[inside]
    standard = (channel - values.mean()) / values.std(correction=0).clamp_min(1e-8)
    return standard if inside is None else torch.where(inside, standard, torch.zeros(()))
