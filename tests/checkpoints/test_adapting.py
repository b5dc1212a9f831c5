import pytest
import torch
from torch.nn import functional

from bdfm_nnunet.checkpoints.adapting import (
    _best_guess,
    adapt_bias_table,
    adapt_input_channels,
    adapt_kernel,
    adapt_named_channels,
    adapt_patch_embedding,
    channel_columns,
    cubic_window,
)
from bdfm_nnunet.networks.attention_windows import relative_position_index
from bdfm_nnunet.networks.swin import WindowAttention

WEIGHT = torch.randn(5, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_that_show_the_same_image_give_the_same_answer(channels: int) -> None:
    image = torch.randn(1, 1, 6, 6, 6)
    expected = functional.conv3d(image.expand(1, 2, -1, -1, -1), WEIGHT)
    adapted = adapt_input_channels(WEIGHT, channels)
    torch.testing.assert_close(functional.conv3d(image.expand(1, channels, -1, -1, -1), adapted), expected)


def test_larger_kernel_computes_the_same() -> None:
    image = torch.randn(1, 2, 8, 8, 8)
    adapted = adapt_kernel(WEIGHT, (5, 3, 7))
    expected = functional.conv3d(image, WEIGHT, padding=1)
    torch.testing.assert_close(functional.conv3d(image, adapted, padding=(2, 1, 3)), expected)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (1, 1, 1), (2, 3, 3)])
def test_smaller_kernel_answers_a_constant_the_same(kernel: tuple[int, ...]) -> None:
    adapted = adapt_kernel(WEIGHT, kernel)
    assert adapted.shape[2:] == kernel
    torch.testing.assert_close(adapted.sum((2, 3, 4)), WEIGHT.sum((2, 3, 4)))


def test_smaller_kernel_keeps_its_middle() -> None:
    large = torch.zeros(1, 1, 7)
    large[0, 0] = torch.arange(7.0)
    assert adapt_kernel(large, (3,))[0, 0].tolist() == [0 + 1 + 2, 3, 4 + 5 + 6]


def test_kernel_adaptation_leaves_the_source_alone() -> None:
    before = WEIGHT.clone()
    adapt_kernel(WEIGHT, (1, 1, 1))
    assert torch.equal(before, WEIGHT)


@pytest.mark.parametrize("patch", [(2, 4, 4), (6, 6, 6), (4, 4, 4), (1, 2, 8)])
def test_patch_embedding_answers_a_constant_the_same(patch: tuple[int, ...]) -> None:
    weight = torch.randn(5, 1, 4, 4, 4)
    adapted = adapt_patch_embedding(weight, patch)
    assert adapted.shape[2:] == patch
    torch.testing.assert_close(adapted.sum((2, 3, 4)), weight.sum((2, 3, 4)), atol=1e-5, rtol=1e-5)
    if patch == (4, 4, 4):
        torch.testing.assert_close(adapted, weight)


@pytest.mark.parametrize(
    ("patch", "least"), [((2, 4, 4), 0.85), ((2, 2, 2), 0.75), ((8, 8, 8), 0.85), ((6, 6, 6), 0.85)]
)
def test_patch_embedding_answers_what_varies_inside_a_patch(patch: tuple[int, ...], least: float) -> None:
    """The same smooth content in old and new voxels, its mean taken away, is answered alike in sign and size."""
    random = torch.Generator().manual_seed(4)
    coarse = torch.randn(400, 1, 3, 3, 3, generator=random)
    content = functional.interpolate(coarse, (24, 24, 24), mode="trilinear", align_corners=True)
    content = content - content.mean((2, 3, 4), keepdim=True)
    smooth = functional.interpolate(torch.randn(64, 1, 2, 2, 2, generator=random), (4, 4, 4), mode="trilinear")
    new = adapt_patch_embedding(smooth, patch).flatten(1)
    before = functional.adaptive_avg_pool3d(content, (4, 4, 4)).flatten(1) @ smooth.flatten(1).T
    after = functional.adaptive_avg_pool3d(content, patch).flatten(1) @ new.T
    gain = (before * after).sum() / (before * before).sum()
    assert least < gain < 1.15
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.97


def test_patch_and_channels_together_keep_both_answers() -> None:
    weight = torch.randn(5, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    adapted = adapt_patch_embedding(adapt_input_channels(weight, 4), (2, 4, 4))
    assert adapted.shape == (5, 4, 2, 4, 4)
    torch.testing.assert_close(adapted.sum((1, 2, 3, 4)), weight.sum((1, 2, 3, 4)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [(3, 4, 2), (5, 5, 5), (4, 4, 4)])
def test_offsets_keep_their_bias(window: tuple[int, ...]) -> None:
    old = WindowAttention(4, (4, 4, 4), 2)
    new = WindowAttention(4, window, 2)
    with torch.no_grad():
        table = adapt_bias_table(old.relative_position_bias_table, (4, 4, 4), window)
        new.relative_position_bias_table.copy_(table)
    shared = tuple(min(a, b) for a, b in zip(window, (4, 4, 4), strict=True))
    ours, theirs = (
        attention.relative_bias(relative_position_index(shared, attention.window_size, False))
        for attention in (new, old)
    )
    assert torch.equal(ours, theirs)


def test_unknown_offsets_take_the_nearest_known() -> None:
    table = torch.arange(3.0)[:, None]  # a window of 2 in one axis: offsets -1, 0, 1
    assert adapt_bias_table(table, (2,), (4,)).flatten().tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_cubic_window() -> None:
    assert cubic_window(13**3, 3) == (7, 7, 7)
    assert cubic_window(5 * 7 * 7, 3) is None and cubic_window(8, 3) is None


def _smooth(count: int, cells: int, size: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, cells, cells, cells, generator=random)
    return functional.interpolate(coarse, (size,) * 3, mode="trilinear", align_corners=True)


@pytest.mark.parametrize(
    ("patch", "most"), [((2, 4, 4), 0.03), ((2, 2, 2), 0.08), ((3, 3, 3), 0.02), ((6, 6, 6), 0.01)]
)
def test_patch_embedding_answers_smooth_images_of_other_voxels_alike(patch: tuple[int, ...], most: float) -> None:
    """Random images without their mean; each voxel shows the mean of what lies in it."""
    content = _smooth(200, 3, 24, seed=4)
    content = content - content.mean((2, 3, 4), keepdim=True)
    weight = functional.interpolate(_smooth(32, 2, 4, seed=5), (4, 4, 4))
    before = functional.adaptive_avg_pool3d(content, (4, 4, 4)).flatten(1) @ weight.flatten(1).T
    after = (
        functional.adaptive_avg_pool3d(content, patch).flatten(1) @ adapt_patch_embedding(weight, patch).flatten(1).T
    )
    assert (after - before).norm() < most * before.norm()


@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 8, 12)])
def test_patch_embedding_of_parts_of_the_old_voxels_answers_any_image_the_same(patch: tuple[int, ...]) -> None:
    """The new voxels tell the old ones, so that nothing is left to guess: white noise, and random weights."""
    random = torch.Generator().manual_seed(6)
    content = torch.randn(50, 2, *(3 * size for size in patch), generator=random)
    weight = torch.randn(7, 2, 4, 4, 4, generator=random)
    coarse = functional.adaptive_avg_pool3d(content, (12, 12, 12))
    expected = functional.conv3d(coarse, weight, stride=4)
    found = functional.conv3d(content, adapt_patch_embedding(weight, patch), stride=patch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_best_guess_is_that_of_content_drawn_from_the_model() -> None:
    """Brownian content on a fine grid: no linear guess of the old voxels has a smaller error."""
    random = torch.Generator().manual_seed(7)
    content = torch.randn(20_000, 1, 48, generator=random, dtype=torch.float64).cumsum(-1)
    content = content - content.mean(-1, keepdim=True)
    old, new = (functional.adaptive_avg_pool1d(content, size)[:, 0] for size in (4, 3))
    guess = _best_guess(4, 3)
    fitted = torch.linalg.lstsq(new - new.mean(0), old - old.mean(0)).solution.T  # for this content, without a constant
    errors = [((new @ each.T - old) ** 2).mean() for each in (guess, fitted)]
    assert errors[0] < 1.05 * errors[1]
    torch.testing.assert_close(guess.sum(1), torch.ones(4, dtype=torch.float64))


def test_channels_of_the_same_modality_get_their_filters() -> None:
    columns = channel_columns(["T1w", "t1ce", "FLAIR"], ["T2-FLAIR", "T2", "t1n"])
    assert columns == [2, None, 0]
    adapted = adapt_named_channels(
        WEIGHT[:, :1].repeat(1, 3, 1, 1, 1) * torch.arange(1, 4)[:, None, None, None], columns
    )
    images = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    theirs = torch.stack([images[:, 2], torch.zeros(1, 6, 6, 6), images[:, 0]], 1)
    whole = WEIGHT[:, :1].repeat(1, 3, 1, 1, 1) * torch.arange(1, 4)[:, None, None, None]
    torch.testing.assert_close(functional.conv3d(images, adapted), functional.conv3d(theirs, whole))


@pytest.mark.parametrize(
    ("theirs", "ours"), [(["CT"], ["T1"]), (["T1", "t1w"], ["T1"]), (["T1", "T2"], ["T1", "T1n"]), ([], ["T1"])]
)
def test_names_that_do_not_tell_are_not_used(theirs: list[str], ours: list[str]) -> None:
    assert channel_columns(theirs, ours) is None


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1)])
def test_smaller_kernel_answers_what_does_not_vary_along_its_axis_the_same(kernel: tuple[int, ...]) -> None:
    """Random along all axes that keep their kernel."""
    kept = [size if size == 3 else 1 for size in kernel]
    image = torch.randn(1, 2, *(9 if size == 3 else 1 for size in kept), generator=torch.Generator().manual_seed(2))
    image = image.expand(1, 2, 9, 9, 9)
    expected = functional.conv3d(image, WEIGHT, padding=1)[..., 1:-1, 1:-1, 1:-1]
    found = functional.conv3d(image, adapt_kernel(WEIGHT, kernel), padding=[size // 2 for size in kernel])
    torch.testing.assert_close(found[..., 1:-1, 1:-1, 1:-1], expected)
