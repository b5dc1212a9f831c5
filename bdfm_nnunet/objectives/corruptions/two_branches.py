"""Frepa's two corruptions by probability: noise in patches of the image, or masks and noise in its spectrum."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bdfm_nnunet.frequency import at_least_single
from bdfm_nnunet.hashed_noise import draw_keys, normal_field, uniform_field
from bdfm_nnunet.masking import per_axis
from bdfm_nnunet.objectives.corruptions.patch_noise import choose_patches, chosen_voxels, patch_grid, replace_patches
from bdfm_nnunet.objectives.corruptions.published_corruptions import (
    published_frequency_corruption,
    published_image_corruption,
)
from bdfm_nnunet.objectives.corruptions.spectral_fills import mask_spectrum, perturb_low_frequencies
from bdfm_nnunet.objectives.corruptions.spectral_masks import patch_mask, radial_mask
from bdfm_nnunet.settings import FrequencyCorruptionSettings

_PUBLISHED_SIGMA, _PUBLISHED_WIDTH = (5e-4, 1e-4), (0.15, 0.25)


def draw_corruptions(
    batch: int, settings: FrequencyCorruptionSettings, *, views: int = 1, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw what decides the corruptions of images; switching off one part leaves the draws of the others as they are.

    Args:
        batch: number of images.
        settings: ranges and probabilities.
        views: corruptions per image.
        generator: the only source of randomness.

    Returns:
        "image_branch", boolean (B, views); "ratio" and "low_strength", (B, views); "keys" of the random fields,
        (B, views, 2); "partner", (B,), another image of the batch; with `legacy_corruptions` also "sigma" and "width",
        (B, views).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = draw_corruptions(4, FrequencyCorruptionSettings(), views=2, generator=generator)
        >>> {name: tuple(value.shape) for name, value in drawn.items()}
        {'image_branch': (4, 2), 'ratio': (4, 2), 'low_strength': (4, 2), 'keys': (4, 2, 2), 'partner': (4,)}
    """
    uniform = torch.rand(5, batch, views, generator=generator)
    keys = draw_keys(batch * views, generator=generator).unflatten(0, (batch, views))
    step = torch.randint(1, max(batch, 2), (batch,), generator=generator)
    drawn = {
        "image_branch": uniform[0] < settings.image_branch,
        "ratio": _between(uniform[1], settings.ratio),
        "low_strength": _between(uniform[2], settings.low_strength),
        "keys": keys,
        "partner": (torch.arange(batch) + step) % batch,
    }
    if settings.legacy_corruptions:
        mean, deviation = _PUBLISHED_SIGMA
        drawn["sigma"] = torch.special.ndtri(uniform[3].clamp(1e-6, 1 - 1e-6)).mul(deviation).add(mean).abs()
        drawn["width"] = _between(uniform[4], _PUBLISHED_WIDTH)
    return drawn


def _between(uniform: Tensor, limits: Sequence[float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniform


@torch._disable_dynamo  # how many images each branch has is known in the step only
def corrupt(
    images: Tensor,
    drawn: Mapping[str, Tensor],
    settings: FrequencyCorruptionSettings,
    *,
    spacing: Sequence[float],
    others: Tensor | None = None,
    strengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupt images as drawn.

    Args:
        images: (B, C, *spatial).
        drawn: result of `draw_corruptions`, one corruption per image: (B, ...).
        settings: forms and sizes of the corruptions.
        spacing: millimetres per axis.
        others: (B, C, *spatial), the partner of each image, for `spectral_fill` "other_image".
        strengths: (B, 2), factors of the replacement and of the low-frequency perturbation; 1 by default.

    Returns:
        The corrupted images (B, C, *spatial), at least in float32, and the voxels (B, *spatial) that were replaced:
        those of the patches, or all after a corruption of the spectrum.

    Example:
        >>> settings, generator = FrequencyCorruptionSettings(), torch.Generator().manual_seed(0)
        >>> drawn = draw_corruptions(4, settings, generator=generator)
        >>> flat = {name: value.reshape(4, *value.shape[2:]) for name, value in drawn.items()}
        >>> corrupted, voxels = corrupt(torch.rand(4, 1, 16, 16, 16), flat, settings, spacing=(1.0, 1.0, 1.0))
    """
    out = at_least_single(images).clone()
    voxels = torch.ones(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    given, in_space = {**drawn, "others": others, "strengths": strengths}, drawn["image_branch"]
    for branch, chosen in ((_corrupt_patches, in_space), (_corrupt_spectra, ~in_space)):
        if len(members := chosen.nonzero().squeeze(1)):
            part = {name: value[members] for name, value in given.items() if value is not None}
            made, replaced = branch(images[members], part, settings, spacing)
            out, voxels = out.index_copy(0, members, made), voxels.index_copy(0, members, replaced)
    return out, voxels


def default_patch(spatial: Sequence[int]) -> tuple[int, ...]:
    """Return a sixteenth of each axis, rounded up, but at least 4 voxels where there are as many.

    Example:
        >>> default_patch((128, 96, 40, 2))
        (8, 6, 4, 2)
    """
    return tuple(min(max(-(-size // 16), 4), size) for size in spatial)


def _corrupt_patches(
    images: Tensor, drawn: Mapping[str, Tensor], settings: FrequencyCorruptionSettings, spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    spatial = images.shape[2:]
    patch = per_axis(settings.patch_size or default_patch(spatial), len(spatial))
    uniform = uniform_field(drawn["keys"], patch_grid(spatial, patch))
    noise = normal_field(drawn["keys"], images.shape[1:])
    if settings.legacy_corruptions:
        return published_image_corruption(images, uniform, noise, ratio=drawn["ratio"])
    chosen = choose_patches(images, uniform, patch_size=patch, ratio=drawn["ratio"], foreground=settings.foreground)
    strength = drawn["strengths"][:, 0] if "strengths" in drawn else 1.0
    made = replace_patches(images, noise, chosen, patch_size=patch, fill=settings.patch_fill, strength=strength)
    return made, chosen_voxels(chosen, spatial, patch)


def _corrupt_spectra(
    images: Tensor, drawn: Mapping[str, Tensor], settings: FrequencyCorruptionSettings, spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    everywhere = torch.ones(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    if settings.legacy_corruptions:
        return _as_published(images, drawn, settings), everywhere
    replaced, perturbed = drawn["strengths"].unbind(1) if "strengths" in drawn else (1.0, 1.0)
    made = at_least_single(images)
    if settings.mask_form != "none":
        made = mask_spectrum(
            made,
            _mask(images, drawn, settings, spacing),
            fill=settings.spectral_fill,
            strength=replaced,
            noise=normal_field(drawn["keys"], images.shape[1:]) if settings.spectral_fill == "noise" else None,
            others=drawn.get("others"),
            spacing=spacing,
        )
    if settings.low_strength[1] > 0:
        # relative to the image before its spectrum was masked
        noise = normal_field(drawn["keys"], images.shape[1:], stream=1)
        width = settings.low_width or 0.1 / max(spacing)
        strength = drawn["low_strength"] * perturbed
        moved = perturb_low_frequencies(images, noise, strength=strength, width=width, spacing=spacing)
        made = made + (moved - images)
    return made, everywhere


def _mask(
    images: Tensor, drawn: Mapping[str, Tensor], settings: FrequencyCorruptionSettings, spacing: Sequence[float]
) -> Tensor:
    """Return the masked frequencies on the half spectrum, (B, *half)."""
    spatial = images.shape[2:]
    cutoff, curve = mask_cutoff(settings, spacing), settings.mask_curve
    if settings.mask_form == "radial":
        uniform = uniform_field(drawn["keys"], spatial)
        return radial_mask(uniform, cutoff=cutoff, probability=drawn["ratio"], spacing=spacing, curve=curve, half=True)
    uniform = uniform_field(drawn["keys"], [min(settings.spectral_patches, size) for size in spatial])
    return patch_mask(
        uniform, spatial, cutoff=cutoff, probability=drawn["ratio"], spacing=spacing, curve=curve, half=True
    )


def mask_cutoff(settings: FrequencyCorruptionSettings, spacing: Sequence[float]) -> float:
    """Return the frequency in cycles/mm from which on frequencies are masked.

    Example:
        >>> mask_cutoff(FrequencyCorruptionSettings(), (3.0, 1.0, 1.0))
        0.049999999999999996
    """
    return settings.mask_cutoff or 0.15 / max(spacing)


def _as_published(images: Tensor, drawn: Mapping[str, Tensor], settings: FrequencyCorruptionSettings) -> Tensor:
    keys, shape = drawn["keys"], images.shape[1:]
    return published_frequency_corruption(
        images,
        uniform_field(keys, [min(settings.spectral_patches, size) for size in shape[1:]]),
        normal_field(keys, shape),
        normal_field(keys, shape, stream=1),
        ratio=drawn["ratio"],
        sigma=drawn["sigma"],
        width=drawn["width"],
    )
