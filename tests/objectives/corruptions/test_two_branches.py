from typing import Any

import pytest
import torch

from bdfm_nnunet.hashed_noise import normal_field, uniform_field
from bdfm_nnunet.objectives.corruptions import (
    corrupt,
    draw_corruptions,
    perturb_low_frequencies,
    published_frequency_corruption,
    published_image_corruption,
    replace_patches,
)
from bdfm_nnunet.settings import FrequencyCorruptionSettings

SPATIAL, SPACING = (12, 16, 10), (2.0, 1.0, 1.0)
IMAGES = torch.randn(4, 1, *SPATIAL, generator=torch.Generator().manual_seed(0)).cumsum(2)
PARTS = {
    "image_branch": 1.0,
    "ratio": (0.1, 0.2),
    "patch_size": 5,
    "patch_fill": "moments",
    "foreground": 5.0,
    "mask_form": "patches",
    "mask_curve": "step",
    "mask_cutoff": 0.3,
    "spectral_fill": "noise",
    "low_strength": (0.5, 0.6),
    "low_width": 0.2,
    "legacy_corruptions": True,
}


def _drawn(settings: FrequencyCorruptionSettings, *, seed: int = 1) -> dict[str, torch.Tensor]:
    drawn = draw_corruptions(4, settings, generator=torch.Generator().manual_seed(seed))
    return {name: value.flatten(0, 1) for name, value in drawn.items() if name != "partner"}


def _corrupted(*, seed: int = 1, images: torch.Tensor = IMAGES, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = FrequencyCorruptionSettings(**settings)
    return corrupt(images, _drawn(chosen, seed=seed), chosen, spacing=SPACING, others=images.flip(0))


@pytest.mark.parametrize("name", PARTS)
def test_each_switch_acts(name: str) -> None:
    base = {"image_branch": 1.0} if name in ("patch_size", "patch_fill", "foreground") else {"image_branch": 0.0}
    if name == "ratio":
        base = {}
    assert not torch.equal(_corrupted(**base)[0], _corrupted(**(base | {name: PARTS[name]}))[0])


@pytest.mark.parametrize("fill", ["noise", "phase_only", "other_image"])
@pytest.mark.parametrize("form", ["radial", "patches"])
def test_fills_act_in_both_forms(fill: str, form: str) -> None:
    settings = {"image_branch": 0.0, "mask_form": form}
    assert not torch.equal(_corrupted(**settings)[0], _corrupted(**settings, spectral_fill=fill)[0])


def test_patches_of_the_spectrum_have_their_number() -> None:
    settings = {"image_branch": 0.0, "mask_form": "patches"}
    assert not torch.equal(_corrupted(**settings)[0], _corrupted(**settings, spectral_patches=4)[0])


def test_nothing_is_corrupted_where_everything_is_off() -> None:
    out, voxels = _corrupted(image_branch=0.0, mask_form="none", low_strength=(0.0, 0.0))
    assert torch.equal(out, IMAGES) and voxels.all()
    out, voxels = _corrupted(image_branch=1.0, ratio=(0.0, 0.0))
    assert torch.equal(out, IMAGES) and not voxels.any()


def test_spacing_acts() -> None:
    settings = FrequencyCorruptionSettings(image_branch=0.0)
    outs = [corrupt(IMAGES, _drawn(settings), settings, spacing=spacing)[0] for spacing in (SPACING, (1.0, 1.0, 1.0))]
    assert not torch.equal(*outs)


def test_branches_are_chosen_by_probability() -> None:
    settings = FrequencyCorruptionSettings(image_branch=0.25)
    drawn = draw_corruptions(4000, settings, views=2, generator=torch.Generator().manual_seed(0))
    assert abs(drawn["image_branch"].float().mean().item() - 0.25) < 0.02
    for name, (low, high) in {"ratio": (0.5, 0.75), "low_strength": (0.05, 0.2)}.items():
        assert drawn[name].min() >= low and drawn[name].max() <= high
        assert abs(drawn[name].mean().item() - (low + high) / 2) < 0.02 * (high - low)
    assert (drawn["partner"] != torch.arange(4000)).all()
    assert len(drawn["keys"].flatten(0, 1).unique(dim=0)) == 8000


def test_published_sizes_are_drawn_as_published() -> None:
    settings = FrequencyCorruptionSettings(legacy_corruptions=True)
    drawn = draw_corruptions(4000, settings, generator=torch.Generator().manual_seed(0))
    assert abs(drawn["sigma"].mean().item() - 5e-4) < 1e-5 and abs(drawn["sigma"].std().item() - 1e-4) < 5e-6
    assert drawn["width"].min() >= 0.15 and drawn["width"].max() <= 0.25


def test_a_sample_is_corrupted_alike_in_every_batch() -> None:
    settings = FrequencyCorruptionSettings()
    drawn = _drawn(settings)
    assert drawn["image_branch"].unique().numel() == 2  # both branches
    together, voxels = corrupt(IMAGES, drawn, settings, spacing=SPACING)
    for number in range(4):
        part = slice(number, number + 1)
        alone = corrupt(IMAGES[part], {n: v[part] for n, v in drawn.items()}, settings, spacing=SPACING)
        torch.testing.assert_close(alone[0], together[part])
        assert torch.equal(alone[1], voxels[part])


def test_seed_decides() -> None:
    first, again, other = (_corrupted(seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_switching_a_part_off_leaves_the_other_draws() -> None:
    whole = _drawn(FrequencyCorruptionSettings())
    for changes in ({"image_branch": 0.0}, {"mask_form": "none"}, {"low_strength": (0.0, 0.0)}):
        part = _drawn(FrequencyCorruptionSettings(**changes))  # type: ignore[arg-type]
        assert torch.equal(part["keys"], whole["keys"]) and torch.equal(part["ratio"], whole["ratio"])


def test_strengths_scale_the_changes() -> None:
    settings = FrequencyCorruptionSettings(image_branch=1.0)
    drawn = _drawn(settings)
    strengths = torch.tensor([[0.5, 1.0]]).expand(4, 2)
    half, _ = corrupt(IMAGES, drawn, settings, spacing=SPACING, strengths=strengths)
    full, _ = corrupt(IMAGES, drawn, settings, spacing=SPACING)
    torch.testing.assert_close(half, (IMAGES + full) / 2)
    settings = FrequencyCorruptionSettings(image_branch=0.0, mask_form="none")
    drawn = _drawn(settings)
    twice, _ = corrupt(IMAGES, drawn, settings, spacing=SPACING, strengths=torch.tensor([[1.0, 2.0]]).expand(4, 2))
    full, _ = corrupt(IMAGES, drawn, settings, spacing=SPACING)
    torch.testing.assert_close(twice - IMAGES, 2 * (full - IMAGES), atol=1e-4, rtol=1e-4)


def test_parts_are_the_public_functions() -> None:
    settings = FrequencyCorruptionSettings(image_branch=0.0, mask_form="none")
    drawn = _drawn(settings)
    noise = normal_field(drawn["keys"], IMAGES.shape[1:], stream=1)
    expected = perturb_low_frequencies(IMAGES, noise, strength=drawn["low_strength"], width=0.05, spacing=SPACING)
    torch.testing.assert_close(corrupt(IMAGES, drawn, settings, spacing=SPACING)[0], expected)
    settings = FrequencyCorruptionSettings(image_branch=1.0, foreground=0.0, patch_size=(4, 4, 5))
    drawn = _drawn(settings)
    chosen = uniform_field(drawn["keys"], (3, 4, 2)) < drawn["ratio"].reshape(-1, 1, 1, 1)
    noise = normal_field(drawn["keys"], IMAGES.shape[1:])
    expected = replace_patches(IMAGES, noise, chosen, patch_size=(4, 4, 5))
    torch.testing.assert_close(corrupt(IMAGES, drawn, settings, spacing=SPACING)[0], expected)


@pytest.mark.parametrize("in_space", [True, False])
def test_legacy_is_the_published_functions(in_space: bool) -> None:
    settings = FrequencyCorruptionSettings(image_branch=float(in_space), legacy_corruptions=True, patch_size=4)
    drawn = _drawn(settings)
    keys, ratio = drawn["keys"], drawn["ratio"]
    noise, low = (normal_field(keys, IMAGES.shape[1:], stream=stream) for stream in (0, 1))
    out, voxels = corrupt(IMAGES, drawn, settings, spacing=SPACING)
    if in_space:
        expected, replaced = published_image_corruption(IMAGES, uniform_field(keys, (3, 4, 3)), noise, ratio=ratio)
        assert torch.equal(voxels, replaced)
    else:
        uniform = uniform_field(keys, SPATIAL)  # no more patches than voxels
        sizes = {"ratio": ratio, "sigma": drawn["sigma"], "width": drawn["width"]}
        expected = published_frequency_corruption(IMAGES, uniform, noise, low, **sizes)
    torch.testing.assert_close(out, expected)
