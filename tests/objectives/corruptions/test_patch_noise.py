import math

import numpy as np
import pytest
import torch

from bdfm_nnunet.objectives.corruptions import choose_patches, chosen_voxels, patch_grid, replace_patches
from tests.objectives.corruptions.frepa_cases import SHAPES, assert_agrees, case


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["histogram", "moments"])
def test_patches_agree_with_a_slow_version(shape: str, fill: str) -> None:
    golden = case(shape)
    images, patch, ratio = golden.image("volume"), golden.facts["patch_size"], golden.facts["patch_ratio"]
    chosen = choose_patches(images, golden.tensor("patch_U"), patch_size=patch, ratio=ratio, foreground=0)
    out = replace_patches(images, golden.image("noise"), chosen, patch_size=patch, fill=fill)  # type: ignore[arg-type]
    assert_agrees(out, golden.image(f"patch_{fill}"))


def _slices(spatial: tuple[int, ...], patch: tuple[int, ...], index: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(i * p, min((i + 1) * p, n)) for i, p, n in zip(index, patch, spatial, strict=True))


@pytest.mark.parametrize(("spatial", "patch"), [((7,), (3,)), ((8, 9), (4, 2)), ((5, 6, 7), (2, 3, 4))])
@pytest.mark.parametrize("fill", ["histogram", "moments"])
def test_patches_are_those_of_the_loop(spatial: tuple[int, ...], patch: tuple[int, ...], fill: str) -> None:
    images, noise = torch.randn(2, 2, 2, *spatial, dtype=torch.float64)
    chosen = torch.rand(2, *patch_grid(spatial, patch)) < 0.6
    out = replace_patches(images, noise, chosen, patch_size=patch, fill=fill)  # type: ignore[arg-type]
    expected = images.numpy().copy()
    for sample, *index in np.argwhere(chosen.numpy()):
        for channel in range(2):
            place = (sample, channel, *_slices(spatial, patch, tuple(index)))
            part, drawn = images.numpy()[place], noise.numpy()[place]
            if fill == "moments":
                expected[place] = part.mean() + part.std() * drawn
            else:
                made = np.empty(part.size)
                made[np.argsort(drawn.ravel(), kind="stable")] = np.sort(part.ravel())
                expected[place] = made.reshape(part.shape)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)
    voxels = chosen_voxels(chosen, spatial, patch)
    assert torch.equal(voxels, (out != images).any(1) | voxels)
    assert torch.equal(out.movedim(1, -1)[~voxels], images.movedim(1, -1)[~voxels])


def test_histogram_is_kept_and_order_is_not() -> None:
    images, noise = torch.randn(2, 1, 1, 16, 16)
    chosen = torch.ones(1, 2, 2, dtype=torch.bool)
    out = replace_patches(images, noise, chosen, patch_size=8)
    for part in (slice(0, 8), slice(8, 16)):
        patches = [tensor[0, 0, part, part].flatten().sort().values for tensor in (images, out)]
        assert torch.equal(*patches)
    assert (out != images).float().mean() > 0.9


def test_foreground_is_what_varies() -> None:
    images = torch.full((2, 1, 12, 12, 12), -1.0)
    images[0, 0, :4, 4:8, :4] = torch.randn(4, 4, 4)
    images[1, 0] += 1e-3 * torch.randn(12, 12, 12)  # a noisy image without a background
    uniform = torch.zeros(2, 3, 3, 3)
    chosen = choose_patches(images, uniform, patch_size=4, ratio=0.5)
    assert chosen[0].nonzero().tolist() == [[0, 1, 0]] and chosen[1].all()
    assert choose_patches(images, uniform, patch_size=4, ratio=0.5, foreground=0).all()
    assert not choose_patches(images, uniform + 0.5, patch_size=4, ratio=0.5, foreground=0).any()
    two = torch.cat([images[:1], torch.randn(1, 1, 12, 12, 12)], dim=1)  # one channel with foreground is enough
    assert choose_patches(two, uniform[:1], patch_size=4, ratio=0.5).all()


def test_cut_off_patches_are_judged_by_their_voxels() -> None:
    images = torch.full((1, 1, 5), 4.0)
    images[..., 0] = 0.0
    assert choose_patches(images, torch.zeros(1, 2), patch_size=4, ratio=0.5).tolist() == [[True, False]]


def test_ratio_and_strength_may_differ_by_sample() -> None:
    images, noise = torch.randn(2, 2, 1, 16, 16)
    uniform = torch.rand(2, 4, 4)
    chosen = choose_patches(images, uniform, patch_size=4, ratio=torch.tensor([0.2, 0.9]))
    for number, ratio in enumerate((0.2, 0.9)):
        assert torch.equal(chosen[number], choose_patches(images, uniform, patch_size=4, ratio=ratio)[number])
    full = replace_patches(images, noise, chosen, patch_size=4)
    out = replace_patches(images, noise, chosen, patch_size=4, strength=torch.tensor([1.0, 0.5]))
    assert torch.equal(out[0], full[0])
    torch.testing.assert_close(out[1], (images[1] + full[1]) / 2)


def test_half_precision_and_infinite_values_stay_apart() -> None:
    images = torch.rand(1, 1, 7).half()
    out = replace_patches(images, torch.rand(1, 1, 7), torch.ones(1, 2, dtype=torch.bool), patch_size=4)
    assert out.dtype == torch.float32 and math.isfinite(out.sum().item())
