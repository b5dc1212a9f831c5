import pytest
import torch
from torch.nn import functional

from bdfm_nnunet.checkpoints.adapting import (
    adapt_bias_table,
    adapt_input_channels,
    adapt_kernel,
    adapt_patch_embedding,
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
