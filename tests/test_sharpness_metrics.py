import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from bdfm_nnunet.sharpness_metrics import edge_psnr, hfen, laplacian_of_gaussian


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TARGET, PREDICTION = _random(2, 2, 20, 18, 22), _random(2, 2, 20, 18, 22, seed=1)
MASK = torch.rand(2, 20, 18, 22, generator=torch.Generator().manual_seed(2)) < 0.4


def published_filter(axes: int) -> np.ndarray:
    """The filter of the paper, fspecial('log', 15, 1.5) of MATLAB, in any number of axes."""
    places = np.stack(np.meshgrid(*[np.arange(-7.0, 8.0)] * axes, indexing="ij"))
    squares = (places**2).sum(0)
    gaussian = np.exp(-squares / (2 * 1.5**2))
    kernel = gaussian / gaussian.sum() * (squares - axes * 1.5**2) / 1.5**4
    return kernel - kernel.mean()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_hfen_is_the_published_filter_in_any_number_of_axes(axes: int) -> None:
    target, prediction = (image[(..., *[slice(None)] * axes, *[0] * (3 - axes))] for image in (TARGET, PREDICTION))
    expected = []
    for there, found in zip(target.double().numpy(), prediction.double().numpy(), strict=True):
        norms = [
            [np.linalg.norm(ndimage.convolve(channel, published_filter(axes), mode="nearest")) for channel in image]
            for image in (found - there, there)
        ]
        expected.append(np.mean(np.divide(*norms)))
    np.testing.assert_allclose(hfen(prediction, target).numpy(), expected, rtol=1e-3)


def test_hfen_with_a_mask_takes_both_norms_over_the_masked_voxels() -> None:
    composite = torch.where(MASK.unsqueeze(1), PREDICTION, TARGET)
    error, detail = (
        laplacian_of_gaussian(image).square() * MASK.unsqueeze(1) for image in (composite - TARGET, TARGET)
    )
    expected = (error.sum((2, 3, 4)) / detail.sum((2, 3, 4))).sqrt().mean(1)
    torch.testing.assert_close(hfen(PREDICTION, TARGET, MASK), expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 2.0), (0.8, 1.3, 6.0)])
def test_the_laplacian_is_in_millimetres(spacing: tuple[float, ...]) -> None:
    """Of a x^2 + b y^2 + c z^2 it is 2 (a + b + c), however thick the slices are."""
    axes = [step * torch.arange(41, dtype=torch.float64) for step in spacing]
    grid = torch.meshgrid(*axes, indexing="ij")
    image = sum(factor * place.square() for factor, place in zip((1.0, -0.5, 2.0), grid, strict=True))
    middle = laplacian_of_gaussian(torch.as_tensor(image)[None, None], spacing=spacing)[0, 0, 20, 20, 20]
    assert middle.item() == pytest.approx(5.0, rel=1e-6)


def test_spacing_and_sigma_set_the_scale() -> None:
    assert torch.equal(hfen(PREDICTION, TARGET, spacing=(1, 1, 1)), hfen(PREDICTION, TARGET))
    finer = hfen(PREDICTION, TARGET, spacing=(0.5, 0.5, 0.5), sigma=0.75)
    torch.testing.assert_close(finer, hfen(PREDICTION, TARGET))
    assert not torch.allclose(hfen(PREDICTION, TARGET, spacing=(0.5, 0.5, 0.5)), hfen(PREDICTION, TARGET), rtol=1e-3)


def test_a_blurred_image_loses_more_detail_the_more_it_is_blurred() -> None:
    blurred = [torch.as_tensor(ndimage.gaussian_filter(TARGET.numpy(), (0, 0, s, s, s))) for s in (0.3, 0.6, 1.2)]
    errors = [hfen(image, TARGET)[0].item() for image in blurred]
    assert 0 < errors[0] < errors[1] < errors[2] < 1


def test_hfen_of_a_constant_target_is_not_defined() -> None:
    constant = torch.full((1, 1, 20, 20, 20), 700.0)
    assert math.isnan(hfen(constant + 1, constant).item())


@pytest.mark.parametrize("score", [hfen, edge_psnr])
def test_visible_voxels_do_not_count(score: object) -> None:
    elsewhere = torch.where(MASK.unsqueeze(1), PREDICTION, float("nan"))
    torch.testing.assert_close(score(elsewhere, TARGET, MASK), score(PREDICTION, TARGET, MASK))  # type: ignore[operator]


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0, 4.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_edge_psnr_agrees_with_a_slow_one(spacing: tuple[float, ...] | None, masked: bool) -> None:
    steps = spacing or (1.0,) * 3
    expected = np.zeros((2, 2))
    for sample, channel in np.ndindex(2, 2):
        there, found = (image[sample, channel].numpy() for image in (TARGET, PREDICTION))
        gradient = np.sqrt(sum(part**2 for part in np.gradient(there, *steps)))
        chosen = gradient >= np.sort(gradient.ravel())[-round(0.1 * gradient.size)]
        chosen = chosen & MASK[sample].numpy() if masked else chosen
        error = np.mean((found - there)[chosen] ** 2)
        expected[sample, channel] = 10 * np.log10((there.max() - there.min()) ** 2 / error)
    ours = edge_psnr(PREDICTION, TARGET, MASK if masked else None, spacing=spacing)
    np.testing.assert_allclose(ours.numpy(), expected.mean(1), rtol=1e-5)


def test_edge_psnr_looks_at_edges_alone() -> None:
    target = torch.zeros(1, 1, 24, 24, 24)
    target[..., 8:16, 8:16, 8:16] = 1
    away, at_edge = target.clone(), target.clone()
    away[..., :4, :4, :4] = 0.5
    at_edge[..., 7:9, 8:16, 8:16] = 0.5
    assert edge_psnr(away, target).item() == pytest.approx(120.0, abs=1e-3)
    assert edge_psnr(at_edge, target).item() < 20
    assert edge_psnr(at_edge, target, share=1.0) == edge_psnr(at_edge, target, share=0.9)  # voxels without a gradient
    assert math.isnan(edge_psnr(away, torch.zeros_like(target)).item())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share"):
        edge_psnr(PREDICTION, TARGET, share=share)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected a voxel size"):
        hfen(PREDICTION, TARGET, spacing=spacing)


def test_half_precision_is_scored_in_single() -> None:
    prediction, target = PREDICTION.to(torch.bfloat16), TARGET.to(torch.bfloat16)
    torch.testing.assert_close(hfen(prediction, target), hfen(prediction.float(), target.float()))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = hfen(PREDICTION, TARGET)
    assert torch.equal(under_autocast, hfen(PREDICTION, TARGET))
    with pytest.raises(ValueError, match="give two alike"):
        hfen(prediction[:, :1], target)
