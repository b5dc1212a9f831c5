"""Preprocessed images of one data set, turned into what an encoder was trained on.

nnU-Net has cropped, resampled and normalised them by the plans of their own data set; the encoder may come from others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.probes.labelled_cases import LabelledCase, LabelledCases
from bdfm_nnunet.studies.image_preparation import normalised, schemes_of_channels

Scheme = tuple[str, bool | None]
_LINEAR = ("ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization", "NoNormalization")
"""Normalisations that multiply and add, so that another one can follow them."""
_SAME_SPACING = 0.02
_REMEDY = "plan the data set like the weights, with `bdfm plan -d ID --weights CKPT`, or give images in place of -d"


class FittedImages:
    """Turns preprocessed cases into images of the kind that a training had.

    Args:
        found: the cases.
        expected: images of the training; None where that is not known, then cases are left as they are.
        inputs: channels that the encoder reads: those of the data set together, or 1 for each alone.

    Attributes:
        each: whether channels are shown one by one.
        notes: sentences on what is changed.

    Raises:
        InputError: the encoder reads other channels, or images with another normalisation that cannot follow theirs.
    """

    def __init__(self, found: LabelledCases, expected: ExpectedImages | None, inputs: int) -> None:
        if len(found.spacing) != 3:
            raise InputError(f"the configuration of {found.folder} is for slices: name one of whole images with -c")
        self.expected = expected
        schemes = found.configuration["normalization_schemes"]
        self.has: list[Scheme] = list(zip(schemes, found.configuration["use_mask_for_norm"], strict=True))
        if inputs not in (1, len(self.has)):
            raise InputError(
                f"the encoder reads {inputs} channels and the cases of {found.folder} have {len(self.has)}: give "
                "weights for as many channels, or for one, which is shown each of them"
            )
        self.each = inputs == 1 and len(self.has) > 1
        self.axes = tuple(found.plans["transpose_forward"])
        self.spacing = tuple(found.spacing[self.axes.index(axis)] for axis in range(3))
        wanted = self.has if expected is None else self._wanted(expected, found)
        self.wants: list[Scheme] = wanted
        self.notes = tuple(self._told())

    def _wanted(self, expected: ExpectedImages, found: LabelledCases) -> list[Scheme]:
        wanted = list(zip(*schemes_of_channels(expected, len(self.has)), strict=True))
        for (has, _), (wants, _) in zip(self.has, wanted, strict=True):
            if wants != has and not (has in _LINEAR and wants in _LINEAR[:2]):
                raise InputError(
                    f"the encoder was trained on images normalised by {wants}, those of {found.folder} are by {has}: "
                    f"{_REMEDY}"
                )
        return wanted

    @property
    def scale(self) -> tuple[float, ...] | None:
        """Factors (z, y, x) by which the images are resampled; None where their spacing is right."""
        if self.expected is None or not self.expected.spacing:
            return None
        factors = tuple(has / want for has, want in zip(self.spacing, self.expected.spacing, strict=True))
        return factors if any(abs(factor - 1) > _SAME_SPACING for factor in factors) else None

    def _told(self) -> list[str]:
        told = []
        if self.expected is None:
            told.append("the file does not tell its images: the preprocessed ones are taken as they are")
        if self.scale is not None and self.expected is not None:
            told.append(f"preprocessed images of {_mm(self.spacing)} are resampled to {_mm(self.expected.spacing)}")
        changed = [(has[0], wants[0]) for has, wants in zip(self.has, self.wants, strict=True) if has[0] != wants[0]]
        told += [f"images normalised by {has} are normalised by {wants} again" for has, wants in dict.fromkeys(changed)]
        if self.each:
            told.append(f"the encoder reads one channel: features are those of the {len(self.has)} channels in turn")
        return told

    def __call__(self, case: LabelledCase) -> tuple[list[Tensor], Tensor]:
        """Return the images that the encoder is shown for a case, (C, *spatial) each, and the foreground (*spatial).

        The foreground is what is not cut away as background around the head: non-zero in the images as they came.
        """
        back = [self.axes.index(axis) for axis in range(3)]
        image, inside = case.image.permute(0, *(1 + at for at in back)), (case.labels >= 0).permute(*back)
        if self.scale is not None:
            sizes = [max(round(n * factor), 1) for n, factor in zip(inside.shape, self.scale, strict=True)]
            image = functional.interpolate(image[None], sizes, mode="trilinear")[0]
            inside = functional.interpolate(inside[None, None].float(), sizes, mode="nearest")[0, 0] > 0
        channels = [
            _again(channel, has, wants, inside) for channel, has, wants in zip(image, self.has, self.wants, strict=True)
        ]
        axes = self.axes if self.expected is None else self.expected.axes
        turned = torch.stack(channels).permute(0, *(1 + axis for axis in axes)).contiguous()
        shown = [turned[at : at + 1] for at in range(len(turned))] if self.each else [turned]
        return shown, inside.permute(*axes).contiguous()


def _again(channel: Tensor, has: Scheme, wants: Scheme, inside: Tensor) -> Tensor:
    """Normalise a channel that was normalised in another way."""
    if has[0] == wants[0]:
        return channel
    if has[1] and inside.any():  # zeros outside of a mask are no intensities there
        channel = torch.where(inside, channel, channel[inside].min())
    return normalised(channel, wants[0], inside if wants[1] else None, None)


def _mm(spacing: Sequence[float]) -> str:
    return f"{'x'.join(f'{step:g}' for step in spacing)} mm"


def intensity_statistics(case: LabelledCase) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return what a histogram tells of the foreground of each channel, in the preprocessed intensities.

    Mean, standard deviation, skewness, excess kurtosis, and the percentiles 1, 5, 25, 50, 75, 95 and 99.
    """
    inside = case.labels >= 0
    found: list[float] = []
    for channel in case.image:
        values = (channel[inside] if inside.any() else channel.flatten()).double().numpy()
        mean, spread = values.mean(), values.std()
        standard = (values - mean) / max(spread, 1e-12)
        found += [mean, spread, (standard**3).mean(), (standard**4).mean() - 3]
        found += list(np.percentile(values, [1, 5, 25, 50, 75, 95, 99]))
    return np.array(found, dtype=np.float32)


def image_volumes(case: LabelledCase, spacing: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the volume of the foreground in ml, and the sides in mm of the box that nnU-Net has cut out."""
    voxel = float(np.prod(spacing)) / 1000
    sides = [size * step for size, step in zip(case.labels.shape, spacing, strict=True)]
    return np.array([float((case.labels >= 0).sum()) * voxel, *sides], dtype=np.float32)


def label_volumes(
    case: LabelledCase, regions: Sequence[Sequence[int]], spacing: Sequence[float]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the volume of each region of the labels in ml."""
    voxel, labels = float(np.prod(spacing)) / 1000, case.labels.numpy()
    return np.array([np.isin(labels, values).sum() * voxel for values in regions], dtype=np.float32)
