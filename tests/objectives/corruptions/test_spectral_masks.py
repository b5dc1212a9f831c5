import itertools
import math
from typing import Any

import pytest
import torch

from bdfm_nnunet.frequency import radial_frequencies
from bdfm_nnunet.objectives.corruptions import patch_mask, radial_mask
from tests.objectives.corruptions.frepa_cases import SHAPES, case

VOLUMES = [
    ((16, 16), None),
    ((15, 27, 33), (3.0, 0.9, 0.9)),
    ((16, 20, 18), (1.2, 0.8, 1.5)),
    ((9, 8), (2.0, 1.0)),
    ((4, 5, 6, 7), (1.0, 1.0, 2.0, 3.0)),
]


def _mask(form: str, spatial: tuple[int, ...], spacing: Any, **settings: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    settings = {"cutoff": 0.05, "probability": 0.7, "spacing": spacing} | settings
    if form == "radial":
        return radial_mask(torch.rand(2, *spatial, generator=generator), **settings)
    grid = tuple(max(size // 3, 1) for size in spatial)
    return patch_mask(torch.rand(2, *grid, generator=generator), spatial, **settings)


@pytest.mark.parametrize("shape", SHAPES)
def test_radial_masks_agree_with_a_slow_version(shape: str) -> None:
    golden = case(shape)
    settings = {"cutoff": golden.facts["mask_cutoff"], "spacing": golden.spacing}
    for curve, probability, name in (("step", 0.7, "mask_hard"), ("smooth", 0.9, "mask_soft")):
        mask = radial_mask(golden.tensor("U"), probability=probability, curve=curve, **settings)
        assert torch.equal(mask, golden.tensor(name).bool()), name


@pytest.mark.parametrize("form", ["radial", "patches"])
@pytest.mark.parametrize("curve", ["step", "smooth"])
@pytest.mark.parametrize(("spatial", "spacing"), VOLUMES)
def test_masked_images_stay_real(form: str, curve: str, spatial: tuple[int, ...], spacing: Any) -> None:
    mask = _mask(form, spatial, spacing, curve=curve)
    dims = tuple(range(1, mask.ndim))
    images = torch.randn(2, *spatial)
    out = torch.fft.ifftn(torch.fft.fftn(images, dim=dims) * ~mask, dim=dims)
    assert out.imag.abs().max() < 1e-6 * out.real.abs().max()
    assert 0.05 < mask.float().mean() < 0.85
    assert not mask[(slice(None), *(0,) * len(spatial))].any()
    half = _mask(form, spatial, spacing, curve=curve, half=True)
    assert torch.equal(half, mask[..., : spatial[-1] // 2 + 1])


def test_patches_of_the_spectrum_are_those_of_the_loop() -> None:
    spatial, spacing, grid, cutoff = (12, 9), (1.0, 2.0), (4, 3), 0.1
    uniform = torch.rand(1, *grid)
    mask = patch_mask(uniform, spatial, cutoff=cutoff, probability=0.8, spacing=spacing)
    for place in itertools.product(range(12), range(9)):
        opposite = (-place[0] % 12, -place[1] % 9)
        first = min(place, opposite)
        shifted = [(k + n // 2) % n for k, n in zip(first, spatial, strict=True)]
        patch = [i // 3 for i in shifted]
        centre = [(3 * p + 1 - n // 2) / (n * s) for p, n, s in zip(patch, spatial, spacing, strict=True)]
        share = 0.8 * (1 - math.exp(-(centre[0] ** 2 + centre[1] ** 2) / cutoff**2))
        expected = place != (0, 0) and uniform[0, patch[0], patch[1]].item() < share
        assert mask[0, place[0], place[1]].item() == expected, place


@pytest.mark.parametrize("form", ["radial", "patches"])
def test_high_frequencies_are_masked_more_often(form: str) -> None:
    spatial = (32, 32, 32)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(8, *((16,) * 3 if form == "patches" else spatial), generator=generator)
    settings: dict[str, Any] = {"cutoff": 0.3, "probability": 0.7}
    mask = radial_mask(uniform, **settings) if form == "radial" else patch_mask(uniform, spatial, **settings)
    radii = radial_frequencies(spatial)
    shares = [mask[:, (radii > low) & (radii <= low + 0.1)].float().mean().item() for low in (0, 0.2, 0.4, 0.6)]
    assert shares == sorted(shares) and shares[0] < 0.15 and shares[-1] > 0.6


@pytest.mark.parametrize("form", ["radial", "patches"])
@pytest.mark.parametrize(
    ("change", "masks_more"),
    [({"probability": 0.9}, True), ({"cutoff": 0.2}, False), ({"spacing": (2.0, 2.0)}, False)],
)
def test_each_number_acts(form: str, change: dict[str, Any], masks_more: bool) -> None:
    before = _mask(form, (32, 32), (1.0, 1.0), curve="step", cutoff=0.1).float().mean()
    after = _mask(form, (32, 32), **({"spacing": (1.0, 1.0), "curve": "step", "cutoff": 0.1} | change)).float().mean()
    assert (after > before) == masks_more and after != before


@pytest.mark.parametrize("form", ["radial", "patches"])
def test_probabilities_may_differ_by_sample(form: str) -> None:
    together, low, high = (
        _mask(form, (16, 16), None, probability=probability) for probability in (torch.tensor([0.2, 0.9]), 0.2, 0.9)
    )
    assert torch.equal(together[0], low[0]) and torch.equal(together[1], high[1])
