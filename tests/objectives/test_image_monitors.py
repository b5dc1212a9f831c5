import math

import torch

from bdfm_nnunet.metrics import fill_with_mean, masked_psnr
from bdfm_nnunet.objectives.image_monitors import IMAGE_PANELS, detail_panels, detail_scores, image_scores
from bdfm_nnunet.sharpness_metrics import edge_psnr, hfen
from bdfm_nnunet.spectrum_metrics import power_spectrum_error

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 1, 16, 16, 16, generator=GENERATOR)
REBUILT = IMAGES + 0.1 * torch.randn(IMAGES.shape, generator=GENERATOR)
VOXELS = torch.rand(3, 16, 16, 16, generator=GENERATOR) < 0.75


def test_every_panel_has_its_scores() -> None:
    scores = image_scores(REBUILT, IMAGES, VOXELS)
    assert set(scores) == {name for panel in IMAGE_PANELS.values() for name in panel.values()}
    assert all(value.ndim == 0 and math.isfinite(value) for value in scores.values())


def test_scores_are_means_over_the_samples_in_millimetres() -> None:
    spacing = (1.0, 1.0, 3.0)
    scores = image_scores(REBUILT, IMAGES, VOXELS, spacing=spacing)
    filled = fill_with_mean(IMAGES, VOXELS)
    for name, rebuilt in (("", REBUILT), ("_mean_fill", filled)):
        assert scores[f"psnr{name}"] == masked_psnr(rebuilt, IMAGES, VOXELS).mean()
        assert scores[f"hfen{name}"] == hfen(rebuilt, IMAGES, VOXELS, spacing=spacing).mean()
        assert scores[f"edge_psnr{name}"] == edge_psnr(rebuilt, IMAGES, VOXELS, spacing=spacing).mean()
        expected = power_spectrum_error(rebuilt, IMAGES, VOXELS, spacing=spacing).high.mean()
        assert scores[f"spectrum_error{name}"] == expected
    assert scores["hfen"] != image_scores(REBUILT, IMAGES, VOXELS)["hfen"]


def test_a_sample_without_a_score_is_left_out() -> None:
    images, rebuilt = torch.cat([IMAGES, torch.zeros(1, 1, 16, 16, 16)]), torch.cat([REBUILT, IMAGES[:1]])
    voxels = torch.cat([VOXELS, VOXELS[:1]])
    assert image_scores(rebuilt, images, voxels)["hfen"] == image_scores(REBUILT, IMAGES, VOXELS)["hfen"]


def test_every_panel_of_details_has_its_scores() -> None:
    names = {name for panel in detail_panels("other", "other").values() for name in panel.values()}
    everywhere = detail_scores(REBUILT, IMAGES)
    assert names == {*everywhere, *(f"{name}_other" for name in everywhere)}
    assert everywhere["hfen"].shape == (3,)
    for name, value in detail_scores(REBUILT, IMAGES, torch.ones_like(VOXELS)).items():
        torch.testing.assert_close(value, everywhere[name])
