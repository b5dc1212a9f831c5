import math

import pytest
import torch

from bdfm_nnunet.frequency import patch_power, patch_spectra, patchify, reflect, spectral_multiplier, unpatchify


def test_patchify_is_raster_order() -> None:
    images = torch.arange(2 * 1 * 4 * 6).reshape(2, 1, 4, 6).float()
    patches = patchify(images, (2, 3))
    assert patches.shape == (2, 4, 1, 2, 3)
    assert torch.equal(patches[1, 2, 0], images[1, 0, 2:4, 0:3])


@pytest.mark.parametrize(("spatial", "patch"), [((8,), 4), ((4, 6), (2, 3)), ((4, 6, 8), 2), ((4, 4, 2, 6), 2)])
def test_unpatchify_inverts(spatial: tuple[int, ...], patch: int | tuple[int, ...]) -> None:
    images = torch.randn(2, 3, *spatial)
    sizes = (patch,) * len(spatial) if isinstance(patch, int) else patch
    grid = [size // step for size, step in zip(spatial, sizes, strict=True)]
    assert torch.equal(unpatchify(patchify(images, patch), grid), images)


def test_patchify_refuses_cut_patches() -> None:
    with pytest.raises(ValueError, match="whole patches"):
        patchify(torch.zeros(1, 1, 5, 4), 2)


@pytest.mark.parametrize("patch", [(4, 4, 4), (3, 5), (2, 8, 8), (1, 6), (7,), (2, 2, 3, 4), (9, 8, 8)])
def test_power_is_that_of_the_whole_spectrum(patch: tuple[int, ...]) -> None:
    patches = torch.randn(3, 2, *patch, dtype=torch.float64)
    axes = tuple(range(-len(patch), 0))
    expected = torch.fft.fftn(patches, dim=axes, norm="ortho").abs().square().flatten(2)
    power, count = patch_power(patches, len(patch))
    assert count.sum() == math.prod(patch)
    torch.testing.assert_close(power @ count, expected.sum(-1))
    torch.testing.assert_close(power.amax(-1), expected.amax(-1))
    repeated = torch.repeat_interleave(power, count.long(), dim=-1).sort(-1).values
    torch.testing.assert_close(repeated, expected.sort(-1).values)


def test_matrix_and_fft_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = torch.randn(5, 4, 6, 5, dtype=torch.float64)
    by_matrix = patch_power(patches, 3)
    monkeypatch.setattr(patch_spectra, "MATRIX_LIMIT", 0)
    by_fft = patch_power(patches, 3)
    torch.testing.assert_close(by_matrix[0].square() @ by_matrix[1], by_fft[0].square() @ by_fft[1].double())


def test_multiplier_is_the_modulation_theorem() -> None:
    """Convolving the spectrum, written as a sum over shifted spectra, is a product in space."""
    image = torch.randn(5, 6, dtype=torch.float64)
    kernel = torch.randn(1, 3, 3, dtype=torch.float64)
    spectrum = torch.fft.fftn(image)
    convolved = torch.zeros_like(spectrum)
    for i in range(3):
        for j in range(3):
            convolved += kernel[0, i, j] * torch.roll(spectrum, (1 - i, 1 - j), (0, 1))
    field = torch.complex(*spectral_multiplier(kernel, (5, 6)))[0]
    torch.testing.assert_close(field * image, torch.fft.ifftn(convolved))


def test_reflect_is_minus_n_on_the_periodic_grid() -> None:
    image = torch.randn(2, 5, 4)
    mirrored = reflect(image, 2)
    for i in range(5):
        for j in range(4):
            assert torch.equal(mirrored[:, i, j], image[:, -i % 5, -j % 4])
