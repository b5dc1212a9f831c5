import itertools
import math

import pytest
import torch

from bdfm_nnunet.frequency import (
    filtered,
    hermitian,
    high_pass,
    low_pass,
    radial_frequencies,
    shell_numbers,
    shell_power,
)
from tests.golden_outputs import golden_numbers, golden_tensors

SHAPES = [((8,), (0.7,)), ((6, 5), (1.0, 2.0)), ((4, 5, 6), (3.0, 0.9, 0.9)), ((3, 4, 2, 5), (1.2, 0.8, 1.5, 2.0))]
GOLDEN = ["24x32x40", "15x27x33", "16x20x18"]


def _signed(index: int, size: int) -> int:
    return index if index < (size + 1) // 2 else index - size


@pytest.mark.parametrize(("spatial", "spacing"), SHAPES)
def test_radii_are_cycles_per_millimetre(spatial: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    radii = radial_frequencies(spatial, spacing=spacing, dtype=torch.float64)
    for place in itertools.product(*(range(size) for size in spatial)):
        axes = zip(place, spatial, spacing, strict=True)
        expected = math.sqrt(sum((_signed(k, n) / (n * step)) ** 2 for k, n, step in axes))
        assert radii[place].item() == pytest.approx(expected, abs=1e-15)
    half = radial_frequencies(spatial, spacing=spacing, half=True, dtype=torch.float64)
    assert torch.equal(half, radii[..., : spatial[-1] // 2 + 1])


@pytest.mark.parametrize(("spatial", "spacing"), SHAPES)
def test_hermitian_takes_the_value_of_the_first_of_a_pair(spatial: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    field = torch.rand(2, *spatial)
    ours = hermitian(field, len(spatial))
    flat = {p: number for number, p in enumerate(itertools.product(*(range(size) for size in spatial)))}
    for place in flat:
        opposite = tuple(-k % n for k, n in zip(place, spatial, strict=True))
        first = min(place, opposite, key=flat.__getitem__)
        assert torch.equal(ours[(slice(None), *place)], field[(slice(None), *first)])
    assert torch.equal(hermitian(field, len(spatial), half=True), ours[..., : spatial[-1] // 2 + 1])
    spectrum = torch.fft.fftn(torch.randn(2, *spatial), dim=tuple(range(-len(spatial), 0)))
    image = torch.fft.ifftn(spectrum * (ours < 0.5), dim=tuple(range(-len(spatial), 0)))
    assert image.imag.abs().max() < 1e-6 * image.real.abs().max()


@pytest.mark.parametrize(("spatial", "spacing"), SHAPES)
def test_half_and_whole_spectrum_filter_alike(spatial: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    images = torch.randn(2, 3, *spatial, dtype=torch.float64)
    dims = tuple(range(2, images.ndim))
    for gain in (lambda radii: high_pass(radii, 0.2), lambda radii: low_pass(radii, 0.2)):
        whole = gain(radial_frequencies(spatial, spacing=spacing, dtype=torch.float64))
        half = gain(radial_frequencies(spatial, spacing=spacing, half=True, dtype=torch.float64))
        expected = torch.fft.ifftn(torch.fft.fftn(images, dim=dims) * whole, dim=dims)
        assert expected.imag.abs().max() < 1e-14
        torch.testing.assert_close(filtered(images, half, axes=len(spatial)), expected.real)


@pytest.mark.parametrize("shape", GOLDEN)
def test_high_pass_and_shells_agree_with_a_slow_version(shape: str) -> None:
    tensors = golden_tensors("frepa_corrected")
    facts = next(c for c in golden_numbers("frepa_corrected")["cases"] if "x".join(map(str, c["shape"])) == shape)
    volume, spacing = tensors[f"{shape}.volume"], facts["spacing_zyx_mm"]
    radii = radial_frequencies(volume.shape, spacing=spacing, half=True)
    ours = filtered(volume, high_pass(radii, facts["hfl_cutoffs_cycles_per_mm"][1]), axes=3)
    expected = tensors[f"{shape}.highpass_c1"]
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
    power = shell_power(volume[None, None], spacing=spacing)[0, 0]
    torch.testing.assert_close(power, torch.tensor(facts["shell_power_8"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_lands_in_its_shell(axis: int) -> None:
    spatial, spacing = (16, 20, 18), (1.2, 0.8, 1.5)
    cycles = 4
    frequency = cycles / (spatial[axis] * spacing[axis])
    shape = [1] * 3
    shape[axis] = -1
    wave = (2 * math.pi * cycles * torch.arange(spatial[axis]) / spatial[axis]).sin().reshape(shape).expand(spatial)
    shell = int(frequency / (0.5 / 1.5 / 8))
    power = shell_power(wave[None, None], spacing=spacing, shells=8)[0, 0]
    assert power.argmax() == shell and power[shell] > 1e6 * power.sum().sub(power[shell])
    count = (shell_numbers(spatial, spacing=spacing) == shell).sum()
    assert power[shell] * count == pytest.approx(wave.square().sum().item(), rel=1e-5)  # Parseval


def test_half_precision_is_lifted() -> None:
    images = torch.randn(1, 1, 8, 8)
    gain = high_pass(radial_frequencies((8, 8), half=True), 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert filtered(images.bfloat16(), gain, axes=2).dtype == torch.float32
        assert shell_power(images.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, math.inf)])
def test_wrong_spacings_are_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="above 0 mm for each of 2 axes"):
        radial_frequencies((4, 4), spacing=spacing)
