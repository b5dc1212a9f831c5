"""Scores of regions against scikit-image and plain loops over voxels."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_laplace
from skimage.metrics import structural_similarity

from bdfm_nnunet.probes.region_scores import region_scores

SHAPE = (24, 20, 22)
TARGET = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
PREDICTION = TARGET + 0.2 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
LESION = torch.zeros(SHAPE, dtype=torch.bool)
LESION[8:14, 5:12, 9:15] = True


def _scores(prediction: torch.Tensor = PREDICTION, **regions: torch.Tensor) -> dict[str, dict[str, float]]:
    return region_scores(prediction, TARGET, regions or {"lesion": LESION})


def test_psnr_and_ssim_are_those_of_the_region_alone() -> None:
    psnr, ssim = [], []
    for rebuilt, image in zip(PREDICTION.numpy(), TARGET.numpy(), strict=True):
        scale = image.max() - image.min()
        squares = (rebuilt - image)[LESION.numpy()] ** 2
        psnr.append(10 * np.log10(scale**2 / squares.mean()))
        similarity = structural_similarity(image, rebuilt, win_size=7, data_range=scale, full=True)[1]
        ssim.append(similarity[LESION.numpy()].mean())
    found = _scores()["lesion"]
    assert found["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
    assert found["ssim"] == pytest.approx(np.mean(ssim), abs=1e-4)


def test_hfen_filters_the_whole_image_and_counts_the_region() -> None:
    expected = []
    for rebuilt, image in zip(PREDICTION.double().numpy(), TARGET.double().numpy(), strict=True):
        error, detail = (
            gaussian_laplace(each, 1.5, mode="nearest", truncate=14 / 3) for each in (rebuilt - image, image)
        )
        expected.append(np.linalg.norm(error[LESION.numpy()]) / np.linalg.norm(detail[LESION.numpy()]))
    assert _scores()["lesion"]["hfen"] == pytest.approx(np.mean(expected), rel=0.01)


def test_an_error_elsewhere_changes_nothing_but_windows_that_reach_it() -> None:
    far, near = PREDICTION.clone(), PREDICTION.clone()
    far[:, -2:], near[:, 15] = 9, 9
    first = _scores()["lesion"]
    assert _scores(far)["lesion"]["psnr"] == first["psnr"] == _scores(near)["lesion"]["psnr"]
    assert _scores(far)["lesion"]["ssim"] == pytest.approx(first["ssim"]) != _scores(near)["lesion"]["ssim"]


def test_an_empty_region_and_one_at_the_border_have_no_number() -> None:
    border = torch.zeros(SHAPE, dtype=torch.bool)
    border[0] = True
    found = _scores(nothing=torch.zeros(SHAPE, dtype=torch.bool), border=border)
    assert all(math.isnan(value) for value in found["nothing"].values())
    assert math.isnan(found["border"]["ssim"]) and math.isfinite(found["border"]["psnr"])


def test_the_spacing_counts_for_details() -> None:
    thick = region_scores(PREDICTION, TARGET, {"lesion": LESION}, spacing=(3.0, 1.0, 1.0))["lesion"]
    assert thick["hfen"] != _scores()["lesion"]["hfen"] and thick["psnr"] == _scores()["lesion"]["psnr"]
