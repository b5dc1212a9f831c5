import math

import pytest
import torch
from torch.nn import functional

from bdfm_nnunet.checkpoints.token_adapting import adapt_merging, adapt_positions
from bdfm_nnunet.networks.swin import PatchMerging


def _table(grid: tuple[int, ...], registers: int) -> torch.Tensor:
    return torch.randn(1, registers + math.prod(grid), 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("grid", [(3, 4, 5), (2, 2, 8), (4, 3, 2)])
def test_positions_are_resampled_over_the_whole_image(grid: tuple[int, ...], registers: int) -> None:
    """Held against an interpolation of each channel's picture; registers have no place and stay."""
    old = (4, 3, 2)
    table = _table(old, registers)
    found = adapt_positions(table, old, grid)
    assert torch.equal(found[:, :registers], table[:, :registers])
    picture = table[0, registers:].T.reshape(1, 5, *old)
    expected = functional.interpolate(picture, grid, mode="trilinear")
    torch.testing.assert_close(found[0, registers:].T.reshape(1, 5, *grid), expected)
    assert grid != old or torch.equal(found, table)


def test_smooth_positions_mean_a_share_of_the_image() -> None:
    """A position that grows evenly along each axis does so on the new grid too, away from the border."""
    places = torch.stack(torch.meshgrid(*(((torch.arange(n) + 0.5) / n) for n in (6, 4)), indexing="ij"), -1)
    found = adapt_positions(places.reshape(1, -1, 2), (6, 4), (9, 8)).reshape(9, 8, 2)
    expected = torch.stack(torch.meshgrid(*(((torch.arange(n) + 0.5) / n) for n in (9, 8)), indexing="ij"), -1)
    torch.testing.assert_close(found[1:-1, 1:-1], expected[1:-1, 1:-1])


@pytest.mark.parametrize("grid", [(6, 3, 4), (2, 3, 2), (5, 4, 2)])
def test_extended_positions_keep_their_distance_from_the_middle(grid: tuple[int, ...]) -> None:
    old = (4, 3, 2)
    table = _table(old, 1)
    found = adapt_positions(table, old, grid, how="extend")[0, 1:].reshape(*grid, 5)
    before = table[0, 1:].reshape(*old, 5)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in grid)).tolist():
        source = [min(max(p - (new - o) // 2, 0), o - 1) for p, new, o in zip(place, grid, old, strict=True)]
        assert torch.equal(found[tuple(place)], before[tuple(source)])


def _merging(stride: tuple[int, ...]) -> PatchMerging:
    torch.manual_seed(1)
    layer = PatchMerging(3, 7, stride)
    with torch.no_grad():
        layer.norm.weight.copy_(1 + 0.3 * torch.randn(layer.norm.weight.shape))
        layer.norm.bias.copy_(torch.randn(layer.norm.bias.shape))
    return layer


def _adapted(old: PatchMerging, stride: tuple[int, ...]) -> PatchMerging:
    new = PatchMerging(3, 7, stride)
    (scale, shift), reduction = adapt_merging(
        (old.norm.weight, old.norm.bias), old.reduction.weight, old.stride, stride
    )
    with torch.no_grad():
        new.norm.weight.copy_(scale), new.norm.bias.copy_(shift), new.reduction.weight.copy_(reduction)
    return new


@pytest.mark.parametrize(("old", "new"), [((1, 2, 2), (2, 2, 2)), ((2, 1, 2), (2, 2, 2)), ((1, 1, 2), (2, 2, 2))])
def test_merging_more_tokens_answers_what_does_not_vary_along_the_axis_the_same(
    old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    layer = _merging(old)
    sizes = [1 if a != b else 8 for a, b in zip(old, new, strict=True)]
    tokens = torch.randn(2, *sizes, 3, generator=torch.Generator().manual_seed(2)).expand(2, 8, 8, 8, 3)
    expected = layer(tokens)[:, :: new[0] // old[0], :: new[1] // old[1], :: new[2] // old[2]]
    torch.testing.assert_close(_adapted(layer, new)(tokens), expected)


def test_merging_fewer_tokens_answers_what_does_not_vary_along_the_axis_the_same() -> None:
    """Where the norm treats both neighbours alike; their columns differ."""
    layer = _merging((2, 2, 2))
    with torch.no_grad():
        for parameter in (layer.norm.weight, layer.norm.bias):
            each = parameter.reshape(2, 2, 2, 3)  # last axis, ..., first axis, channels
            each.copy_(each[:, :, :1].expand_as(each).clone())
    tokens = torch.randn(2, 1, 8, 8, 3, generator=torch.Generator().manual_seed(2)).expand(2, 8, 8, 8, 3)
    torch.testing.assert_close(_adapted(layer, (1, 2, 2))(tokens)[:, ::2], layer(tokens), atol=1e-5, rtol=1e-5)


def test_merging_there_and_back_is_the_same() -> None:
    layer = _merging((1, 2, 2))
    back = _adapted(_adapted(layer, (2, 2, 2)), (1, 2, 2))
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value)
