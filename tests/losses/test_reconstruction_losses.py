import cmath
import itertools
import math

import pytest
import torch

from bdfm_nnunet.losses import focal_frequency_loss, masked_mse


def _slow_focal_frequency_loss(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, patch: int, alpha: float
) -> float:
    """The definition, letter by letter: a loop over samples, patches, channels and frequencies."""
    values = []
    for b in range(len(mask)):
        for place in itertools.product(*(range(n) for n in mask.shape[1:])):
            if not mask[b][place]:
                continue
            box = tuple(slice(i * patch, (i + 1) * patch) for i in place)
            for c in range(target.shape[1]):
                values += _slow_patch(prediction[b, c][box] - target[b, c][box], alpha)
    return sum(values) / len(values)


def _slow_patch(difference: torch.Tensor, alpha: float) -> list[float]:
    points = list(itertools.product(*(range(n) for n in difference.shape)))
    spectrum = []
    for frequency in points:
        total = 0j
        for point in points:
            phase = sum(k * n / size for k, n, size in zip(frequency, point, difference.shape, strict=True))
            total += difference[point].item() * cmath.exp(-2j * math.pi * phase)
        spectrum.append(abs(total) / math.sqrt(len(points)))
    peak = max(value**alpha for value in spectrum)
    return [value**alpha / peak * value**2 for value in spectrum]


def _example(channels: int = 2, patch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 2, channels, *(patch * n for n in (2, 3, 1)), generator=generator)
    return prediction, target, torch.rand(2, 2, 3, 1, generator=generator) < 0.6


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("patch", [2, 3])
def test_focal_frequency_loss_is_its_definition(alpha: float, patch: int) -> None:
    prediction, target, mask = _example(patch=patch)
    fast = focal_frequency_loss(prediction, target, mask, patch_size=patch, alpha=alpha)
    assert fast.item() == pytest.approx(_slow_focal_frequency_loss(prediction, target, mask, patch, alpha), rel=1e-5)


def test_alpha_zero_is_the_squared_error() -> None:
    """Parseval's theorem: an orthonormal transform keeps the sum of squares."""
    prediction, target, mask = _example()
    frequency = focal_frequency_loss(prediction, target, mask, patch_size=2, alpha=0)
    torch.testing.assert_close(frequency, masked_mse(prediction, target, mask, patch_size=2))


def test_no_gradient_through_the_weight() -> None:
    prediction, target, mask = _example(channels=1)
    prediction.requires_grad_()
    focal_frequency_loss(prediction, target, mask, patch_size=2).backward()
    with torch.no_grad():
        difference = (prediction - target)[0, 0, :2, :2, :2]
        spectrum = torch.fft.fftn(difference, norm="ortho")
        weight = spectrum.abs() / spectrum.abs().max()
        expected = 2 * torch.fft.ifftn(weight * spectrum, norm="ortho").real / 8 / mask.sum()
    assert mask[0, 0, 0, 0]
    torch.testing.assert_close(prediction.grad[0, 0, :2, :2, :2], expected)


def test_legacy_transforms_channel_and_all_axes_but_the_last_where_any_sample_is_masked() -> None:
    prediction, target, mask = _example(patch=2)
    values = []
    for place in itertools.product(range(2), range(3), range(1)):
        if not mask[(slice(None), *place)].any():
            continue
        box = tuple(slice(2 * i, 2 * i + 2) for i in place)
        difference = (prediction - target)[(slice(None), slice(None), *box)]
        power = torch.fft.fftn(difference, dim=(1, 2, 3), norm="ortho").abs().square()
        values.append(power.sqrt() / power.amax((2, 3, 4), keepdim=True).sqrt() * power)
    legacy = focal_frequency_loss(prediction, target, mask, patch_size=2, legacy=True)
    torch.testing.assert_close(legacy, torch.stack(values).mean())
    assert not torch.isclose(legacy, focal_frequency_loss(prediction, target, mask, patch_size=2))


@pytest.mark.parametrize("legacy", [False, True])
def test_perfect_prediction_has_no_loss_and_no_nan(legacy: bool) -> None:
    _, target, mask = _example()
    prediction = target.clone().requires_grad_()
    loss = focal_frequency_loss(prediction, target, mask, patch_size=2, legacy=legacy)
    loss.backward()
    assert loss == 0 and torch.equal(prediction.grad, torch.zeros_like(target))


def test_visible_patches_do_not_count() -> None:
    prediction, target, mask = _example()
    voxels = mask.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3).unsqueeze(1)
    changed = torch.where(voxels, prediction, prediction + 100)
    for loss in (masked_mse, focal_frequency_loss):
        torch.testing.assert_close(
            loss(prediction, target, mask, patch_size=2), loss(changed, target, mask, patch_size=2)
        )


def test_masked_mse_is_the_mean_over_masked_voxels() -> None:
    prediction, target, mask = _example()
    squares = [
        (prediction - target)[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].square()
        for b, i, j, _ in mask.nonzero().tolist()
    ]
    torch.testing.assert_close(masked_mse(prediction, target, mask), torch.stack(squares).mean())


@pytest.mark.parametrize("loss", [masked_mse, focal_frequency_loss])
def test_shapes_that_do_not_fit_are_refused(loss: object) -> None:
    prediction, target, mask = _example()
    for arguments, reason in (
        ((prediction[:, :1], target, mask), "differ in shape"),
        ((prediction, target, mask.float()), "boolean"),
        ((prediction, target, mask[:1]), "boolean"),
        ((prediction, target, mask[:, :, :2]), "does not fill"),
    ):
        with pytest.raises(ValueError, match=reason):
            loss(*arguments, patch_size=2)  # type: ignore[operator]


@pytest.mark.parametrize("axes", [1, 2, 4])
def test_any_number_of_axes(axes: int) -> None:
    prediction, target = torch.randn(2, 1, 1, *(4,) * axes)
    mask = torch.ones(1, *(2,) * axes, dtype=torch.bool)
    assert torch.isfinite(focal_frequency_loss(prediction, target, mask, patch_size=2))


def test_half_precision_is_computed_in_single() -> None:
    prediction, target, mask = _example()
    half = focal_frequency_loss(prediction.half(), target.half(), mask, patch_size=2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, focal_frequency_loss(prediction, target, mask, patch_size=2), rtol=1e-2, atol=0)
