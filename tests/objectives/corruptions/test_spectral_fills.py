from typing import Any

import pytest
import torch

from bdfm_nnunet.frequency import radial_frequencies, shell_numbers
from bdfm_nnunet.objectives.corruptions import mask_spectrum, perturb_low_frequencies, radial_mask
from tests.objectives.corruptions.frepa_cases import SHAPES, assert_agrees, case

SPATIAL, SPACING = (9, 12, 10), (2.0, 0.8, 1.1)
DIMS = (2, 3, 4)
IMAGES = torch.randn(2, 3, *SPATIAL, generator=torch.Generator().manual_seed(0)).double()
NOISE = torch.randn(2, 3, *SPATIAL, generator=torch.Generator().manual_seed(1)).double()


def _mask(*, half: bool = True) -> torch.Tensor:
    uniform = torch.rand(2, *SPATIAL, generator=torch.Generator().manual_seed(2))
    return radial_mask(uniform, cutoff=0.1, probability=0.8, spacing=SPACING, half=half)


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_agree_with_a_slow_version(shape: str) -> None:
    golden = case(shape)
    settings: dict[str, Any] = {"cutoff": golden.facts["mask_cutoff"], "spacing": golden.spacing, "half": True}
    for curve, probability, name in (("step", 0.7, "masked_hard"), ("smooth", 0.9, "masked_soft")):
        mask = radial_mask(golden.tensor("U"), probability=probability, curve=curve, **settings)
        assert_agrees(mask_spectrum(golden.image("volume"), mask), golden.image(name))


@pytest.mark.parametrize("shape", SHAPES)
def test_perturbation_agrees_with_a_slow_version(shape: str) -> None:
    golden = case(shape)
    images = golden.image("volume")
    out = perturb_low_frequencies(
        images, golden.image("noise"), strength=0.1, width=golden.facts["low_d"], spacing=golden.spacing
    )
    assert_agrees(out, golden.image("lowfreq"))
    change = (out - images).double()
    assert change.square().mean().sqrt().item() == pytest.approx(0.1 * golden.facts["volume_std"], rel=1e-5)
    assert abs(change.mean().item()) < 1e-7


def _filled(fill: str, **changes: Any) -> torch.Tensor:
    settings = {"noise": NOISE, "others": IMAGES.flip(0), "spacing": SPACING} | changes
    return mask_spectrum(IMAGES, _mask(), fill=fill, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("fill", ["zero", "noise", "phase_only", "other_image"])
def test_fills_change_the_masked_frequencies_alone(fill: str) -> None:
    whole = _mask(half=False).unsqueeze(1).expand(2, 3, *SPATIAL)
    before, after = torch.fft.fftn(IMAGES, dim=DIMS), torch.fft.fftn(_filled(fill), dim=DIMS)
    torch.testing.assert_close(after[~whole], before[~whole])
    if fill == "zero":
        assert after[whole].abs().max() < 1e-10
    elif fill == "other_image":
        torch.testing.assert_close(after[whole], before.flip(0)[whole])
    else:
        mean = _mean_magnitude(before)
        if fill == "phase_only":
            torch.testing.assert_close(after.abs()[whole], mean[whole])
            torch.testing.assert_close(after.angle().cos()[whole], before.angle().cos()[whole])
        else:  # its power is that of the shells, its phase another
            ratio = (after.abs().square() / mean.square())[whole].mean()
            assert 0.9 < ratio < 1.1 and (after.angle() - before.angle())[whole].cos().mean().abs() < 0.1


def _mean_magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    """The root of the mean power of each frequency's shell, by a loop."""
    numbers = shell_numbers(SPATIAL, spacing=SPACING, shells=max(SPATIAL) // 2)
    mean = torch.zeros(spectrum.shape, dtype=torch.float64)
    for number in numbers.unique():
        mean[..., numbers == number] = spectrum[..., numbers == number].abs().square().mean(-1, keepdim=True).sqrt()
    return mean


def test_strength_is_the_share_of_the_change() -> None:
    strength = torch.tensor([0.25, 1.0])
    out = _filled("zero", strength=strength)
    full = _filled("zero")
    torch.testing.assert_close(out[0], IMAGES[0] + 0.25 * (full[0] - IMAGES[0]))
    torch.testing.assert_close(out[1], full[1])


@pytest.mark.parametrize(("fill", "missing"), [("noise", "noise"), ("other_image", "others")])
def test_a_fill_says_what_it_needs(fill: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"needs '{missing}'"):
        _filled(fill, **{missing: None})


def test_perturbation_is_smooth_and_as_strong_as_asked() -> None:
    strength = torch.tensor([0.0, 0.3])
    out = perturb_low_frequencies(IMAGES, NOISE, strength=strength, width=0.05, spacing=SPACING)
    assert torch.equal(out[0], IMAGES[0])
    change = (out - IMAGES)[1]
    rms = change.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, 0.3 * IMAGES[1].std((1, 2, 3), unbiased=False))
    assert change.mean((1, 2, 3)).abs().max() < 1e-12
    power = torch.fft.fftn(change, dim=(1, 2, 3)).abs().square()
    high = radial_frequencies(SPATIAL, spacing=SPACING) > 0.2
    assert power[:, high].sum() < 1e-4 * power.sum()
    wider = perturb_low_frequencies(IMAGES, NOISE, strength=strength, width=0.2, spacing=SPACING)
    assert torch.fft.fftn((wider - IMAGES)[1], dim=(1, 2, 3)).abs().square()[:, high].sum() > power[:, high].sum()


def test_constant_images_stay() -> None:
    constant = torch.full((1, 1, 8, 8), 3.0)
    out = perturb_low_frequencies(constant, torch.randn(1, 1, 8, 8), strength=0.5, width=0.1)
    assert torch.equal(out, constant)
    for fill in ("zero", "phase_only", "noise"):
        mask = radial_mask(torch.zeros(1, 8, 8), cutoff=0.1, probability=1.0, half=True)
        filled = mask_spectrum(constant, mask, fill=fill, noise=torch.randn(1, 1, 8, 8))  # type: ignore[arg-type]
        torch.testing.assert_close(filled, constant)


def test_gradients_reach_the_strengths() -> None:
    share = torch.ones(2, dtype=torch.float64, requires_grad=True)
    out = perturb_low_frequencies(_filled("zero", strength=share), NOISE, strength=share, width=0.1, spacing=SPACING)
    (gradient,) = torch.autograd.grad(out.square().sum(), share)
    assert torch.isfinite(gradient).all() and (gradient != 0).all()
