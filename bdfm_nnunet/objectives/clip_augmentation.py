"""Augmentation of clips of 4-D images: one affine map for all frames of a clip, and noise that differs in each.

Shapes: clips (B, C, X, Y, Z, T). What is drawn is a handful of numbers per clip; applying them is arithmetic on the
device of the clips.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bdfm_nnunet.hashed_noise import draw_keys, normal_field
from bdfm_nnunet.intensity_changes import blurred, noisy
from bdfm_nnunet.objectives.view_geometry import sampled, view_matrices
from bdfm_nnunet.settings import SequenceSettings


def draw_clip_changes(
    batch: int,
    spatial: Sequence[int],
    settings: SequenceSettings,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draw everything random about the augmentation of clips; each part from a separate stream.

    Args:
        batch: number of clips.
        spatial: voxels per axis, with or without the frames.
        settings: ranges and probabilities.
        spacing: mm per voxel along X, Y and Z.
        generator: the only source of randomness.

    Returns:
        "matrix" (B, 3, 4), "noise" (B,), "noise_keys" (B, 2) and "smoothing" (B,), for `changed_clips`.

    Example:
        >>> drawn = draw_clip_changes(2, (8, 8, 8), SequenceSettings(), generator=torch.Generator().manual_seed(0))
        >>> {name: tuple(value.shape) for name, value in drawn.items()}
        {'matrix': (2, 3, 4), 'noise': (2,), 'noise_keys': (2, 2), 'smoothing': (2,)}
    """
    seeds = torch.randint(2**62, (3,), generator=generator).tolist()
    affine, noise, smoothing = (torch.Generator().manual_seed(seed) for seed in seeds)
    least, largest = settings.smoothing
    sigmas = least + (largest - least) * torch.rand(batch, generator=smoothing)
    return {
        "matrix": _matrices(batch, spatial, settings, spacing, affine),
        "noise": settings.noise * _happens(batch, settings.p_noise, noise),
        "noise_keys": draw_keys(batch, generator=noise),
        "smoothing": sigmas * _happens(batch, settings.p_smoothing, smoothing),
    }


def _happens(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, generator=generator) < probability


def _matrices(
    batch: int, spatial: Sequence[int], settings: SequenceSettings, spacing: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Draw rotations about the three axes and a factor for each, about the centre of the clip."""
    happens = _happens(batch, settings.p_affine, generator)[:, None]
    angles = torch.deg2rad((2 * torch.rand(batch, 3, generator=generator) - 1) * settings.degrees)
    least, largest = settings.scaling
    sides = least + (largest - least) * torch.rand(batch, 3, generator=generator)
    sides = torch.where(happens, sides, 1.0)
    return view_matrices(
        (1 - sides) / 2,
        sides,
        flips=torch.zeros(batch, 3, dtype=torch.bool),
        angles=torch.where(happens, angles, 0.0),
        zooms=torch.ones(batch),
        spacing=spacing[:3],
        spatial=spatial[:3],
    )


def changed_clips(
    clips: Tensor, drawn: Mapping[str, Tensor], *, brain: Tensor | None = None, same_noise: bool = False
) -> Tensor:
    """Return clips after the affine map, smoothing and noise that were drawn.

    Args:
        clips: (B, C, X, Y, Z, T).
        drawn: result of `draw_clip_changes`.
        brain: boolean (B, X, Y, Z) after the affine map, whose standard deviation is the unit of the noise; by default
            every voxel.
        same_noise: the same noise in all frames of a clip, as published.

    Example:
        >>> settings = SequenceSettings(p_affine=0.0, p_smoothing=0.0, p_noise=1.0)
        >>> drawn = draw_clip_changes(1, (8, 8, 8), settings, generator=torch.Generator().manual_seed(0))
        >>> clips = torch.randn(1, 1, 8, 8, 8, 3, generator=torch.Generator().manual_seed(0))
        >>> (changed_clips(clips, drawn) - clips).std()
        tensor(0.1...)
    """
    batch, channels, *space, frames = clips.shape
    images = moved(clips.movedim(-1, 2).flatten(1, 2), drawn["matrix"])
    images = blurred(images, drawn["smoothing"].to(images.device)[:, None].expand(-1, 3))
    changed = images.reshape(batch, channels, frames, *space).movedim(2, -1)
    where = torch.ones_like(changed, dtype=torch.bool)
    where = where if brain is None else where & brain[:, None, ..., None]
    strength, keys = drawn["noise"].to(clips.device), drawn["noise_keys"].to(clips.device)
    if same_noise:
        field = normal_field(keys, (channels, *space)).to(changed.dtype)
        return changed + strength.reshape(-1, 1, 1, 1, 1, 1).to(changed.dtype) * field[..., None]
    return noisy(changed, where, strength, keys)


def moved(images: Tensor, matrix: Tensor, *, nearest: bool = False) -> Tensor:
    """Return images (B, C, X, Y, Z) after affine maps (B, 3, 4) with repeated edges; identities change no bit.

    Args:
        images: on any device.
        matrix: from places in the result to places in the images, see `view_matrices`.
        nearest: take the nearest voxel, for labels; else interpolate.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
        >>> flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 0.0]))[None, :3]
        >>> moved(image, flip).flatten()
        tensor([3., 2., 1., 0.])
    """
    matrix = matrix.to(images.device)
    still = (matrix == torch.eye(3, 4, device=matrix.device)).flatten(1).all(1)
    found = sampled(images, matrix, images.shape[2:], outside="edge", nearest=nearest)
    return torch.where(still.reshape(-1, 1, 1, 1, 1), images, found)
