import math

import numpy as np
import pytest
import torch

from bdfm_nnunet.frequency import radial_frequencies
from bdfm_nnunet.spectrum_metrics import (
    detail_power,
    highest_frequency,
    power_spectrum_error,
    recovered_power,
    shell_middles,
)

Shape = tuple[int, ...]
GRIDS = [((17,), None), ((12, 15), (1.0, 3.0)), ((16, 11, 10), (0.5, 0.5, 2.0)), ((8, 8, 8), None)]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_shells(image: np.ndarray, spacing: tuple[float, ...], shells: int) -> np.ndarray:
    """Mean power of each shell, frequency by frequency of the full spectrum."""
    spectrum = np.abs(np.fft.fftn(image - image.mean())) ** 2 / image.size
    powers, counts, top = np.zeros(shells + 1), np.zeros(shells + 1), max(0.5 / step for step in spacing)
    for place in np.ndindex(*image.shape):
        cycles = [
            (k - n if k > n // 2 else k) / (n * step) for k, n, step in zip(place, image.shape, spacing, strict=True)
        ]
        shell = min(int(math.hypot(*cycles) / top * shells + 1e-9), shells)
        powers[shell] += spectrum[place]
        counts[shell] += 1
    return (powers / np.maximum(counts, 1))[:shells]


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_shells_agree_with_a_slow_sum(shape: Shape, spacing: tuple[float, ...] | None) -> None:
    images = _random(2, 2, *shape) + 3
    powers = detail_power(images, spacing=spacing, shells=5, window=False)
    for ours, image in zip(powers.flatten(0, 1), images.flatten(0, 1).double().numpy(), strict=True):
        np.testing.assert_allclose(ours, slow_shells(image, spacing or (1.0,) * len(shape), 5), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(("axis", "cycles"), [(0, 2), (1, 5), (2, 6)])
def test_a_sinusoid_lands_in_its_shell(axis: int, cycles: int, window: bool) -> None:
    shape, spacing = (24, 30, 28), (1.0, 0.5, 2.0)
    phase = 2 * math.pi * cycles * torch.arange(shape[axis]) / shape[axis]
    image = phase.cos().reshape([-1 if a == axis else 1 for a in range(3)]).expand(shape)[None, None]
    powers = detail_power(image, spacing=spacing, shells=8, window=window)[0, 0]
    frequency = cycles / (shape[axis] * spacing[axis])
    middles = shell_middles(shape, spacing=spacing, shells=8)
    assert int((middles - frequency).abs().argmin()) == int(powers.argmax())
    assert powers.max() > (0.5 if window else 0.999) * powers.sum()


def test_frequencies_are_those_of_the_transform() -> None:
    grid = np.meshgrid(np.fft.fftfreq(6, 0.5), np.fft.fftfreq(5, 2.0), indexing="ij")
    full = radial_frequencies((6, 5), spacing=(0.5, 2.0))
    np.testing.assert_allclose(full, np.hypot(*grid), rtol=1e-6)
    assert torch.equal(radial_frequencies((6, 5), spacing=(0.5, 2.0), half=True), full[:, :3])
    assert highest_frequency((6, 5, 1), spacing=(0.5, 2.0, 0.1)) == 1.0


def test_the_window_keeps_the_borders_of_a_crop_out_of_the_high_shells() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    high = [
        detail_power(ramp, window=window)[..., 4:].sum() / detail_power(ramp, window=window).sum() for window in (0, 1)
    ]
    assert high[1] < 0.01 * high[0]


def test_errors_tell_lost_from_invented_power_and_know_no_phase() -> None:
    target = _random(2, 1, 32, 32, 32)
    spectrum = torch.fft.fftn(target, dim=(2, 3, 4))
    keep = radial_frequencies((32, 32, 32)) < 0.25
    blurred = torch.fft.ifftn(spectrum * torch.where(keep, 1.0, 0.1), dim=(2, 3, 4)).real
    error = power_spectrum_error(blurred, target, shells=8, window=False)
    torch.testing.assert_close(error.decibels[:, :4], torch.zeros(2, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(error.decibels[:, 4:], torch.full((2, 4), -20.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(error.relative[:, 4:], torch.full((2, 4), 0.99), atol=1e-4, rtol=0)
    torch.testing.assert_close(error.high, torch.full((2,), 20.0), atol=1e-3, rtol=0)
    assert (power_spectrum_error(2 * target, target).decibels > 6).all()
    shifted = power_spectrum_error(target.roll((3, 5, 7), (2, 3, 4)), target, window=False)
    assert shifted.high.max() < 1e-3


def test_visible_voxels_come_from_the_target() -> None:
    target, prediction = _random(1, 1, 24, 24), _random(1, 1, 24, 24, seed=1)
    mask = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(2)) < 0.5
    joined = torch.where(mask.unsqueeze(1), prediction, target)
    for ours, expected in zip(
        power_spectrum_error(prediction, target, mask), power_spectrum_error(joined, target), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    nothing = power_spectrum_error(prediction, target, torch.zeros_like(mask))
    assert nothing.high.item() == 0


def test_spacing_moves_the_shells() -> None:
    target, prediction = _random(1, 1, 24, 24, 24), _random(1, 1, 24, 24, 24, seed=1)
    thick = power_spectrum_error(prediction, target, spacing=(1, 1, 4))
    assert not torch.allclose(thick.decibels, power_spectrum_error(prediction, target).decibels)
    finer = power_spectrum_error(prediction, target, spacing=(0.5, 0.5, 0.5))
    torch.testing.assert_close(finer.decibels, power_spectrum_error(prediction, target).decibels)
    torch.testing.assert_close(finer.frequencies, 2 * power_spectrum_error(prediction, target).frequencies)


def test_shells_without_power_are_not_defined() -> None:
    constant = torch.full((1, 1, 24, 24), 5.0)
    assert power_spectrum_error(_random(1, 1, 24, 24), constant).decibels.isnan().all()
    with pytest.raises(ValueError, match="shells is 0"):
        detail_power(constant, shells=0)


def test_recovered_power_counts_phases_and_is_joined_over_images() -> None:
    target = _random(3, 1, 24, 24)
    assert recovered_power(torch.zeros_like(target), target).min() == 1
    torch.testing.assert_close(recovered_power(-target, target), torch.zeros(8))
    shifted = target.roll(1, -1) - target
    assert recovered_power(shifted, target)[-1] < 0 < recovered_power(shifted, target)[0]
    lost, power = (detail_power(image).sum((0, 1)) for image in (shifted, target))
    torch.testing.assert_close(recovered_power(shifted, target), 1 - lost / power)
