import math

import pytest
import torch
from scipy import ndimage

from bdfm_nnunet import intensity_changes as change

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 2, 6, 7, 8, generator=GENERATOR)
HEAD = torch.rand(2, 2, 6, 7, 8, generator=GENERATOR) < 0.7
TWO = torch.tensor([0.5, 0.0])


def test_standardised_has_moments_of_a_slow_reference() -> None:
    images = IMAGES * 0.006 + 100  # E[x^2] - mean^2 would be lost in single precision
    result = change.standardised(images, HEAD)
    for b in range(2):
        for c in range(2):
            values = images[b, c][HEAD[b, c]].double()
            expected = (values - values.mean()) / values.std(unbiased=False)
            torch.testing.assert_close(result[b, c][HEAD[b, c]].double(), expected, rtol=1e-3, atol=2e-2)
    assert (result[~HEAD] == 0).all()


@pytest.mark.parametrize("values", [torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1)])
def test_constant_and_empty_images_stay_finite(values: torch.Tensor) -> None:
    inside = values != 0
    scaled, low, extent = change.unit_range(values, inside)
    assert scaled.isfinite().all() and low.isfinite().all() and (extent == 0).all()
    results = [
        change.standardised(values, inside),
        change.contrast_changed(scaled, inside, torch.tensor([1.0])),
        change.noisy(scaled, inside, torch.tensor([0.5]), torch.tensor([[1, 2]])),
    ]
    assert all(result.isfinite().all() for result in results)


def test_bias_field_is_the_sum_of_its_cosines() -> None:
    coefficients = torch.randn(2, 3, 3, 3, generator=GENERATOR)
    field = change.bias_field(coefficients, (6, 7, 8))
    place = (2, 3, 5)
    waves = [[math.cos(math.pi * k * (p + 0.5) / n) for k in range(3)] for p, n in zip(place, (6, 7, 8))]
    expected = sum(
        coefficients[1, i, j, k] * waves[0][i] * waves[1][j] * waves[2][k]
        for i in range(3)
        for j in range(3)
        for k in range(3)
    )
    torch.testing.assert_close(field[1, 2, 3, 5], expected)
    torch.testing.assert_close(
        change.biased(IMAGES, coefficients)[1, 1, 2, 3, 5], IMAGES[1, 1, 2, 3, 5] * expected.exp()
    )


def test_contrast_keeps_mean_side_and_range_and_survives_standardisation() -> None:
    whole = torch.ones_like(IMAGES, dtype=torch.bool)
    plain = change.standardised(IMAGES, whole)
    for strength in (1.5, -1.5):
        changed = change.contrast_changed(IMAGES, whole, torch.full((2,), strength))
        order = IMAGES[0, 0].flatten().argsort()
        assert (changed[0, 0].flatten()[order].diff() >= 0).all()
        assert (change.standardised(changed, whole) - plain).abs().max() > 0.1
        inner = (changed - IMAGES.mean((2, 3, 4), keepdim=True)).abs() > (
            IMAGES - IMAGES.mean((2, 3, 4), keepdim=True)
        ).abs() + 1e-5
        assert inner.float().mean() > 0.5 if strength > 0 else not inner.any()


def test_opposite_contrasts_undo_each_other() -> None:
    image = torch.linspace(-1, 1, 21)[None, None]
    inside = torch.ones_like(image, dtype=torch.bool)
    there = change.contrast_changed(image, inside, torch.tensor([1.3]))
    torch.testing.assert_close(change.contrast_changed(there, inside, torch.tensor([-1.3])), image)


def test_blur_is_a_gaussian_filter() -> None:
    sigmas = torch.tensor([[1.0, 0.6, 0.8], [0.0, 0.0, 0.0]])
    result = change.blurred(IMAGES, sigmas)
    expected = ndimage.gaussian_filter(IMAGES[0, 1].numpy(), (1.0, 0.6, 0.8), mode="nearest", radius=3)
    torch.testing.assert_close(result[0, 1], torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_low_resolution_keeps_one_voxel_in_each_larger_one() -> None:
    factors = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 1.5]])
    result = change.lowered_resolution(IMAGES, factors)
    kept = IMAGES[0, :, [1, 3, 5]]
    torch.testing.assert_close(result[0, :, 0], kept[:, 0])
    torch.testing.assert_close(result[0, :, 1], 0.75 * kept[:, 0] + 0.25 * kept[:, 1])
    torch.testing.assert_close(result[0, :, 2], 0.25 * kept[:, 0] + 0.75 * kept[:, 1])
    torch.testing.assert_close(result[1, 0, :, :, 0], IMAGES[1, 0, :, :, 0])
    assert result[1].std() < IMAGES[1].std()


def test_noise_has_the_strength_asked_for() -> None:
    images = torch.randn(1, 1, 30, 30, 30, generator=GENERATOR) * 3
    inside = torch.ones_like(images, dtype=torch.bool)
    added = change.noisy(images, inside, torch.tensor([0.2]), torch.tensor([[9, 4]])) - images
    assert abs(float(added.std()) - 0.6) < 0.02


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("biased", {"coefficients": torch.stack([torch.full((2, 2, 2), 0.5), torch.zeros(2, 2, 2)])}),
        ("gamma_changed", {"gamma": torch.tensor([1.4, 1.0])}),
        ("contrast_changed", {"foreground": HEAD, "strength": TWO}),
        ("blurred", {"sigmas": TWO[:, None].expand(2, 3)}),
        ("lowered_resolution", {"factors": 1 + TWO[:, None].expand(2, 3)}),
        ("noisy", {"foreground": HEAD, "strength": TWO, "keys": torch.tensor([[1, 5], [2, 6]])}),
    ],
)
def test_neutral_samples_stay_as_they_are(name: str, arguments: dict[str, torch.Tensor]) -> None:
    result = getattr(change, name)(IMAGES, **arguments)
    assert torch.equal(result[1], IMAGES[1]) and not torch.equal(result[0], IMAGES[0])
