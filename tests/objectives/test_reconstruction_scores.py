import pytest
import torch

from bdfm_nnunet.frequency import filtered, radial_frequencies
from bdfm_nnunet.losses import high_frequency_loss
from bdfm_nnunet.objectives.reconstruction_scores import reconstruction_scores

SPACING = (2.0, 1.0, 1.0)
TARGET = torch.rand(2, 1, 8, 10, 12, generator=torch.Generator().manual_seed(0))


def test_recovered_is_the_share_of_the_high_frequencies() -> None:
    radii = radial_frequencies((8, 10, 12), spacing=SPACING, half=True)
    low_half = filtered(TARGET, (radii <= 0.2).float(), axes=3)
    scores = reconstruction_scores(low_half, TARGET, spacing=SPACING, cutoff=0.2)
    assert scores["recovered"].abs() < 1e-5
    half = low_half + 0.5 * (TARGET - low_half)
    scores = reconstruction_scores(half, TARGET, spacing=SPACING, cutoff=0.2)
    assert scores["recovered"].item() == pytest.approx(0.75, abs=1e-5)
    shifted = reconstruction_scores(TARGET + 1, TARGET, spacing=SPACING, cutoff=0.2)
    assert shifted["recovered"].item() == pytest.approx(1, abs=1e-5) and shifted["psnr"] < 1


def test_other_scores() -> None:
    guess = TARGET + 0.1
    scores = reconstruction_scores(guess, TARGET, spacing=SPACING, cutoff=0.2)
    ranges = (TARGET.flatten(1).amax(1) - TARGET.flatten(1).amin(1)).square()
    assert scores["psnr"].item() == pytest.approx((10 * torch.log10(ranges / 0.01)).mean().item(), abs=1e-3)
    torch.testing.assert_close(scores["hfl"], high_frequency_loss(guess, TARGET, spacing=SPACING))
    blank = reconstruction_scores(guess, torch.zeros_like(TARGET), spacing=SPACING, cutoff=0.2)
    assert all(torch.isfinite(value) for value in blank.values())
