import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bdfm_nnunet.checkpoints import crop_template, prepare_for_simclr, standardise_in_brain
from tests.checkpoints.simclr_weights import OUTPUTS, needs_outputs


def template() -> tuple[Tensor, Tensor]:
    """A made-up brain on the template's grid, (z, y, x), and its mask."""
    x, y, z = np.meshgrid(np.arange(193), np.arange(229), np.arange(193), indexing="ij", sparse=True)
    inside = ((x - 96) / 70) ** 2 + ((y - 114) / 90) ** 2 + ((z - 80) / 75) ** 2 < 1
    values = 100 + 20 * np.sin(x / 17) + 10 * np.cos(y / 23) + 5 * np.sin(z / 11)
    volume = np.where(inside, values, 7).astype(np.float32)
    return torch.from_numpy(volume).permute(2, 1, 0), torch.from_numpy(inside).permute(2, 1, 0).float()


@needs_outputs
def test_the_template_as_published() -> None:
    golden = load_file(OUTPUTS / "simclr_resnet18.safetensors")
    expected = json.loads((OUTPUTS / "simclr_resnet18.json").read_text())["prep_template"]
    volume, mask = template()
    prepared = prepare_for_simclr(volume, mask)[0]
    assert list(prepared.shape) == expected["shape"]
    assert int(crop_template(mask).sum()) == expected["mask_voxels_after_crop"]
    torch.testing.assert_close(prepared[:, ::6, ::6, ::6], golden["prep_template_sub"], rtol=1e-5, atol=1e-5)
    assert prepared.double().square().sum().item() == pytest.approx(expected["sum_sq"], rel=1e-5)
    assert [prepared.max().item(), prepared.min().item()] == pytest.approx([expected["max"], expected["min"]], rel=1e-5)
    assert prepared[0].nonzero()[0].tolist() == expected["first_nonzero_zyx"]


@needs_outputs
def test_small_images_as_published() -> None:
    golden = load_file(OUTPUTS / "simclr_resnet18.safetensors")
    image, mask = golden["tiny_image"], golden["tiny_mask"]
    torch.testing.assert_close(standardise_in_brain(image, mask), golden["tiny_standardized"], rtol=1e-5, atol=1e-6)
    empty = standardise_in_brain(image, torch.zeros_like(mask))
    assert torch.equal(empty, golden["tiny_standardized_emptymask"]) and not empty.any()


def test_it_is_the_textbook_formula_inside_and_zero_outside() -> None:
    images, mask = torch.randn(2, 3, 5, 6, 7) * 3 + 40, torch.rand(2, 1, 5, 6, 7) > 0.4
    found = standardise_in_brain(images, mask)
    for image, brain, standard in zip(
        images.flatten(0, 1), mask.repeat(1, 3, 1, 1, 1).flatten(0, 1), found.flatten(0, 1)
    ):
        inside = image[brain].numpy().astype(np.float64)
        np.testing.assert_allclose(standard[brain], (inside - inside.mean()) / inside.std(), rtol=1e-4, atol=1e-6)
        assert not standard[~brain].any()


@pytest.mark.parametrize("mean", [0.0, 1e4, 1e6, -1e7])
def test_a_mean_far_above_the_deviation_does_not_spoil_it(mean: float) -> None:
    deviations = torch.from_numpy(np.random.RandomState(0).normal(0, 1e-3, (1, 8, 9, 10)))
    found = standardise_in_brain(mean + deviations, torch.ones(1, 8, 9, 10))
    expected = (deviations - deviations.mean()) / deviations.std(correction=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    single = standardise_in_brain((mean + deviations).float(), torch.ones(1, 8, 9, 10))
    assert single.isfinite().all() and single.dtype is torch.float32
    assert single.std(correction=0).item() == pytest.approx(1 if single.any() else 0, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32, torch.int16])
def test_any_mask_tells_the_brain(kind: torch.dtype) -> None:
    images, mask = torch.randn(6, 6, 6), torch.rand(6, 6, 6) > 0.5
    expected = standardise_in_brain(images, mask)
    assert torch.equal(standardise_in_brain(images, mask.to(kind)), expected)
    if kind is not torch.bool:
        assert torch.equal(standardise_in_brain(images, mask.to(kind) * 100), expected)


def test_a_soft_mask_is_cut_at_a_half() -> None:
    images, soft = torch.randn(6, 6, 6), torch.rand(6, 6, 6)
    assert torch.equal(standardise_in_brain(images, soft), standardise_in_brain(images, soft > 0.5))


def test_what_lies_outside_does_not_matter() -> None:
    images, mask = torch.randn(6, 6, 6), torch.rand(6, 6, 6) > 0.5
    damaged = torch.where(mask, images, torch.nan)
    assert torch.equal(standardise_in_brain(damaged, mask), standardise_in_brain(images, mask))


def test_constant_images_and_whole_numbers() -> None:
    assert not standardise_in_brain(torch.full((4, 4, 4), 0.1), torch.ones(4, 4, 4)).any()
    assert standardise_in_brain(torch.arange(8).reshape(2, 2, 2), torch.ones(2, 2, 2)).dtype is torch.float32


def test_only_the_template_is_cropped() -> None:
    volume = torch.arange(193 * 229 * 193).reshape(193, 229, 193)
    assert crop_template(volume)[0, 0, 0] == volume[10, 19, 1]
    assert crop_template(volume)[-1, -1, -1] == volume[159, 210, 192]
    with pytest.raises(ValueError, match="register it to the MNI152 template"):
        crop_template(torch.zeros(182, 218, 182))
