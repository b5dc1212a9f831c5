import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bdfm_nnunet.metrics import fill_with_mean, intensity_range, masked_psnr, masked_ssim

IMAGES = torch.rand(2, 1, 16, 14, 12, generator=torch.Generator().manual_seed(0))
NOISY = IMAGES + 0.1 * torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(2, 16, 14, 12, dtype=torch.bool)
MASK[0, 4:12, 2:9], MASK[1, 5:, :, 3:8] = True, True


def test_psnr_agrees_with_scikit_image_on_the_masked_voxels() -> None:
    ours = masked_psnr(NOISY, IMAGES, MASK)
    for value, image, noisy, mask, peak in zip(ours, IMAGES, NOISY, MASK, intensity_range(IMAGES), strict=True):
        expected = peak_signal_noise_ratio(image[0][mask].numpy(), noisy[0][mask].numpy(), data_range=peak.item())
        assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [3, 7])
def test_ssim_agrees_with_scikit_image(window: int) -> None:
    ours = masked_ssim(NOISY, IMAGES, MASK, window=window)
    margin = window // 2
    inside = (slice(margin, -margin),) * 3
    for value, image, noisy, mask in zip(ours, IMAGES[:, 0], NOISY[:, 0], MASK, strict=True):
        shown = torch.where(mask, noisy, image).numpy()
        scale = float(image.max() - image.min())
        _, similarity = structural_similarity(image.numpy(), shown, win_size=window, data_range=scale, full=True)
        assert value.item() == pytest.approx(similarity[inside][mask[inside].numpy()].mean(), abs=1e-4)


def test_visible_voxels_do_not_count() -> None:
    elsewhere = torch.where(MASK.unsqueeze(1), NOISY, NOISY + 10)
    for score in (masked_psnr, masked_ssim):
        torch.testing.assert_close(score(elsewhere, IMAGES, MASK), score(NOISY, IMAGES, MASK))


def test_mean_fill_is_the_visible_mean() -> None:
    filled = fill_with_mean(IMAGES, MASK)
    for image, original, mask in zip(filled[:, 0], IMAGES[:, 0], MASK, strict=True):
        assert torch.equal(image[~mask], original[~mask])
        np.testing.assert_allclose(image[mask], original[~mask].mean(), rtol=1e-5)
