"""Two random views of each image, for objectives that compare them: drawn and applied apart.

What is drawn is a handful of numbers per view. Applying them is the same arithmetic for the whole batch, on the device
of the images. Every part is drawn from a separate stream: switching one off leaves the others as they were.

Foreground is every voxel other than 0: nnU-Net sets the background of skull-stripped images to 0, and so do crops
beyond the edge of a volume. Where a data set was normalised without a mask, all voxels inside a volume count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import pi
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet import intensity_changes
from bdfm_nnunet.hashed_noise import draw_keys
from bdfm_nnunet.objectives.legacy_views import draw_legacy_views, legacy_view
from bdfm_nnunet.objectives.view_boxes import draw_boxes
from bdfm_nnunet.objectives.view_geometry import sampled, view_matrices
from bdfm_nnunet.settings import ContrastiveSettings

_WAVES = 4  # cosines per axis of a bias field, with 0 to 3 half waves


def draw_views(
    batch: int,
    spatial: Sequence[int],
    settings: ContrastiveSettings,
    *,
    spacing: Sequence[float] | None = None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draw everything random about two views of each image.

    Args:
        batch: number of images.
        spatial: voxels of an image per axis.
        settings: ranges and probabilities.
        spacing: mm per voxel and axis; by default 1.
        generator: the only source of randomness.

    Returns:
        Name -> tensor (batch, 2, ...), for `two_views`.

    Example:
        >>> from bdfm_nnunet.settings import ContrastiveSettings
        >>> drawn = draw_views(3, (16, 16), ContrastiveSettings(), generator=torch.Generator().manual_seed(0))
        >>> drawn["matrix"].shape, drawn["gamma"].shape
        (torch.Size([3, 2, 2, 3]), torch.Size([3, 2]))
    """
    if settings.legacy_views:
        return draw_legacy_views(batch, spatial, generator=generator)
    spacing = tuple(spacing) if spacing else (1.0,) * len(spatial)
    seeds = torch.randint(2**62, (8,), generator=generator).tolist()
    box, *parts = (_Draws(batch, torch.Generator().manual_seed(seed)) for seed in seeds)
    flip, turn, bias, gamma, contrast, resolution, noise = parts
    return {
        "matrix": _matrices(box, flip, turn, spatial, spacing, settings),
        "bias": _bias(bias, len(spatial), settings),
        "gamma": gamma.sometimes(settings.p_gamma, gamma.between(settings.gamma), 1.0),
        "contrast": contrast.sometimes(
            settings.p_contrast, contrast.between((-settings.contrast, settings.contrast)), 0.0
        ),
        **_resolution(resolution, spacing, settings),
        "noise": noise.sometimes(settings.p_noise, noise.between((0, settings.noise)), 0.0),
        "noise_keys": draw_keys(2 * batch, generator=noise.generator).unflatten(0, (batch, 2)),
    }


class _Draws:
    """Numbers of one part of the views, from a separate stream."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch = batch
        self.generator = generator

    def between(self, bounds: Sequence[float], *shape: int) -> Tensor:
        low, high = bounds
        return torch.rand(self.batch, 2, *shape, generator=self.generator) * (high - low) + low

    def sometimes(self, probability: float, values: Tensor, neutral: float, *shape: int) -> Tensor:
        chosen = torch.rand(self.batch, 2, *shape, generator=self.generator) < probability
        return torch.where(chosen.reshape(*chosen.shape, *[1] * (values.ndim - chosen.ndim)), values, neutral)


def _matrices(
    box: _Draws,
    flip: _Draws,
    turn: _Draws,
    spatial: Sequence[int],
    spacing: Sequence[float],
    settings: ContrastiveSettings,
) -> Tensor:
    axes, largest = len(spatial), settings.degrees * pi / 180
    corners, sides = draw_boxes(
        box.batch,
        axes,
        least_share=settings.least_share,
        least_overlap=settings.least_overlap,
        together=settings.crops == "one",
        generator=box.generator,
    )
    angles = turn.sometimes(settings.p_rotation, turn.between((-largest, largest), 3 if axes == 3 else 1), 0.0)
    zooms = turn.sometimes(settings.p_scaling, turn.between(settings.scaling), 1.0)
    flips = flip.sometimes(settings.p_flip, torch.tensor(True), False, axes)
    geometry = {"flips": flips, "angles": angles.double(), "zooms": zooms.double()}
    return view_matrices(corners, sides, **geometry, spacing=spacing, spatial=spatial).float()


def _bias(bias: _Draws, axes: int, settings: ContrastiveSettings) -> Tensor:
    normal = torch.randn(bias.batch, 2, *[_WAVES] * axes, generator=bias.generator)
    strength = bias.sometimes(settings.p_bias, bias.between((0, settings.bias)), 0.0)
    fields = intensity_changes.smooth_coefficients(normal.flatten(0, 1), strength.flatten())
    return fields.unflatten(0, (bias.batch, 2))


def _resolution(draws: _Draws, spacing: Sequence[float], settings: ContrastiveSettings) -> dict[str, Tensor]:
    finest = min(spacing)
    shrink = torch.tensor([finest / step for step in spacing])
    sigma = draws.sometimes(settings.p_blur, draws.between(settings.blur), 0.0)
    factor = draws.between((1, settings.low_resolution), len(spacing))
    return {
        "blur": sigma[..., None] * shrink,
        "low_resolution": draws.sometimes(settings.p_low_resolution, factor, 1.0),
    }


def two_views(
    images: Tensor, drawn: Mapping[str, Tensor], settings: ContrastiveSettings, *, spatial: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the two views of each image.

    Args:
        images: (B, C, *any size).
        drawn: result of `draw_views` for these images.
        settings: those with which it was drawn.
        spatial: voxels of a view per axis; by default those of the images.

    Returns:
        (B, C, *spatial) each, in at least single precision.

    Example:
        >>> from bdfm_nnunet.settings import ContrastiveSettings
        >>> settings, images = ContrastiveSettings(), torch.rand(2, 1, 16, 16, 16)
        >>> drawn = draw_views(2, (16, 16, 16), settings, generator=torch.Generator().manual_seed(0))
        >>> first, second = two_views(images, drawn, settings)
        >>> first.shape, torch.equal(first, second)
        (torch.Size([2, 1, 16, 16, 16]), False)
    """
    parts = [{name: values[:, view] for name, values in drawn.items()} for view in range(2)]
    if settings.legacy_views:
        return legacy_view(images, parts[0], spatial=spatial), legacy_view(images, parts[1], spatial=spatial)
    size = images.shape[2:] if spatial is None else spatial
    first, second = (sampled(images, part["matrix"], size, outside=settings.outside) for part in parts)
    return intensities_changed(first, parts[0], settings), intensities_changed(second, parts[1], settings)


def two_clip_views(
    clips: Tensor, brain: Tensor, drawn: Mapping[str, Tensor], settings: ContrastiveSettings, *, spatial: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return a view of each of two clips, in which all frames are changed alike but for the noise.

    Args:
        clips: (B, 2, X, Y, Z, T).
        brain: boolean (B, 2, X, Y, Z); all else becomes 0.
        drawn: result of `draw_views` for the axes of space.
        settings: those with which it was drawn.
        spatial: voxels of a view along X, Y and Z.

    Returns:
        (B, 1, *spatial, T) each.

    Example:
        >>> from bdfm_nnunet.settings import ContrastiveSettings
        >>> settings, clips = ContrastiveSettings(), torch.rand(2, 2, 8, 8, 8, 3)
        >>> drawn = draw_views(2, (8, 8, 8), settings, generator=torch.Generator().manual_seed(0))
        >>> two_clip_views(clips, clips[..., 0] > 0, drawn, settings, spatial=(8, 8, 8))[1].shape
        torch.Size([2, 1, 8, 8, 8, 3])
    """
    views = []
    for number in range(2):
        part = {name: values[:, number] for name, values in drawn.items()}
        place = partial(sampled, matrices=part["matrix"], spatial=spatial, outside=settings.outside)
        inside = brain[:, number, None]
        clip = in_space(place, torch.where(inside[..., None], clips[:, number, None], 0))
        clip = torch.where((place(inside.to(clip.dtype)) > 0.5)[..., None], clip, 0)
        views.append(intensities_changed(clip, part, settings))
    return views[0], views[1]


def intensities_changed(images: Tensor, drawn: Mapping[str, Tensor], settings: ContrastiveSettings) -> Tensor:
    """Return images after the intensity changes of one view, background 0.

    The coils come first (bias), then the tissue contrast, the resolution, and the noise at last, as in a scanner. All
    of it works on the range of the foreground; a standardisation follows if the settings ask for it.

    Args:
        images: (B, C, *spatial).
        drawn: numbers of one view, (B, ...) each.
        settings: a part with probability 0 is left out.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.settings import ContrastiveSettings
        >>> off = {part.probability: 0.0 for part in _PARTS}
        >>> images = torch.rand(2, 1, 8, 8, 8)
        >>> unchanged = intensities_changed(images, {}, ContrastiveSettings(**off, standardise=False))
        >>> torch.allclose(unchanged, images, atol=1e-6)
        True
    """
    foreground = images != 0
    values, low, extent = intensity_changes.unit_range(images, foreground)
    for part in _PARTS:
        if getattr(settings, part.probability) > 0:
            values = _changed(part, values, foreground, drawn)
    if settings.standardise:
        return intensity_changes.standardised(values, foreground)
    return torch.where(foreground, low + values * extent, 0)


def in_space(change: Callable[..., Tensor], images: Tensor, *arguments: Any) -> Tensor:
    """Return images after a change along the axes of space: of a clip (B, C, X, Y, Z, T) each frame alike.

    Args:
        change: takes images (B, C, *spatial) and the arguments, and returns as many channels.
        images: any number of axes.
        arguments: further ones.

    Example:
        >>> in_space(lambda volumes: volumes[..., :1], torch.zeros(2, 1, 4, 4, 4, 7)).shape
        torch.Size([2, 1, 4, 4, 1, 7])
    """
    if images.ndim < 6:
        return change(images, *arguments)
    channels = images.shape[1]
    volumes = change(images.movedim(-1, 2).flatten(1, 2), *arguments)
    return volumes.unflatten(1, (channels, -1)).movedim(2, -1)


Drawn = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Part:
    """One intensity change.

    Attributes:
        name: of its strength among what is drawn.
        neutral: strength at which it changes nothing.
        change: takes values, foreground and what is drawn.
    """

    name: str
    neutral: float
    change: Callable[[Tensor, Tensor, Drawn], Tensor]

    @property
    def probability(self) -> str:
        """Name of the setting that says how often it is applied."""
        return f"p_{self.name}"


_PARTS = (
    _Part("bias", 0.0, lambda values, foreground, drawn: in_space(intensity_changes.biased, values, drawn["bias"])),
    _Part("gamma", 1.0, lambda values, foreground, drawn: intensity_changes.gamma_changed(values, drawn["gamma"])),
    _Part(
        "contrast",
        0.0,
        lambda values, foreground, drawn: intensity_changes.contrast_changed(values, foreground, drawn["contrast"]),
    ),
    _Part("blur", 0.0, lambda values, foreground, drawn: in_space(intensity_changes.blurred, values, drawn["blur"])),
    _Part(
        "low_resolution",
        1.0,
        lambda values, foreground, drawn: in_space(
            intensity_changes.lowered_resolution, values, drawn["low_resolution"]
        ),
    ),
    _Part(
        "noise",
        0.0,
        lambda values, foreground, drawn: intensity_changes.noisy(
            values, foreground, drawn["noise"], drawn["noise_keys"]
        ),
    ),
)


def _changed(part: _Part, values: Tensor, foreground: Tensor, drawn: Drawn) -> Tensor:
    if values.device.type != "cpu":  # to ask which samples are changed would make the host wait
        return torch.where(foreground, part.change(values, foreground, drawn), 0)
    rows = (drawn[part.name] != part.neutral).reshape(len(values), -1).any(1).nonzero()[:, 0]
    if not len(rows):
        return values
    inside = foreground[rows]
    changed = part.change(values[rows], inside, {name: each[rows] for name, each in drawn.items()})
    return values.index_copy(0, rows, torch.where(inside, changed, 0))
