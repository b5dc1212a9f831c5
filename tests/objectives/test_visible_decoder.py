"""Blocks are rebuilt as a decoder of the whole grid rebuilds them, and only from what is visible."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.masking import MaskToken
from bdfm_nnunet.networks.visible_tokens import VisibleTokens
from bdfm_nnunet.objectives.visible_decoder import VisibleDecoder

CPU = torch.device("cpu")
CHANNELS = (8, 12, 16)
CASES: dict[str, tuple[list[tuple[int, ...]], tuple[int, ...], tuple[int, ...]]] = {
    # merging, positions of the last stage, positions of a block
    "3-D": ([(2, 2, 2), (2, 2, 2)], (2, 2, 3), (1, 1, 1)),
    "2-D, unequal": ([(2, 2), (1, 2)], (4, 3), (2, 1)),
}
FIRST = 8  # voxels per axis of a token: no scale is left out


def _made(case: str, mode: str = "learned") -> tuple[VisibleDecoder, list[Tensor], VisibleTokens, Tensor]:
    """A decoder, features of visible tokens, their places, and which positions are visible."""
    merging, grid, block = CASES[case]
    torch.manual_seed(0)
    strides = [(FIRST,) * len(grid)]
    for stride in merging:
        strides.append(tuple(a * b for a, b in zip(strides[-1], stride)))
    decoder = VisibleDecoder(
        CHANNELS, strides, 6, 2, mask_token=mode, noise=0.0, block=[n * s for n, s in zip(block, strides[-1])]
    ).double()  # type: ignore[arg-type]
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ranks = torch.rand(2, torch.Size(grid).numel()).argsort(1).argsort(1)
    visible = (ranks < 4).reshape(2, *grid)
    where = VisibleTokens(visible, merging, device=CPU)
    features = [
        torch.randn(2, stage.numbers.shape[1], c, dtype=torch.double, requires_grad=True)
        for stage, c in zip(where.stages, CHANNELS)
    ]
    return decoder, features, where, visible


def _whole(decoder: VisibleDecoder, features: list[Tensor], where: VisibleTokens) -> Tensor:
    """The images that the decoder stands for, (B, C, *spatial): every scale on its whole grid."""
    convolve = {2: functional.conv2d, 3: functional.conv3d}[len(where.stages[0].grid)]
    joined = None
    for level in reversed(range(3)):
        stage = where.stages[level]
        token: Any = decoder.mask_tokens[level]
        grid = torch.zeros(2, stage.tokens, CHANNELS[level], dtype=torch.double)
        for sample in range(2):
            mean = features[level][sample].mean(0)
            grid[sample] = mean if token.mode == "image_mean" else token.value
            for number, row in zip(stage.numbers[sample], features[level][sample]):
                grid[sample, number] = row
        positions = decoder.laterals[level](grid.reshape(2, *stage.grid, -1))
        if joined is not None:
            positions = positions + decoder.expands[level](joined).movedim(1, -1)
        positions = functional.gelu(decoder.norms[level](positions)).movedim(-1, 1)
        mix = decoder.mixes[level]
        joined = positions + convolve(positions, mix.weight, mix.bias, padding=1)
    return decoder.project(joined)


@pytest.mark.parametrize("mode", ["learned", "image_mean"])
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_those_of_the_whole_image(case: str, mode: str) -> None:
    decoder, features, where, _ = _made(case, mode)
    expected = patchify(_whole(decoder, features, where), [n * FIRST for n in decoder.block])
    blocks = torch.tensor([[3, 0, 5], [2, 1, 4]])
    found = decoder.rebuild(features, where, blocks).unflatten(0, (2, 3))
    expected = torch.stack([expected[sample, blocks[sample]] for sample in range(2)])
    torch.testing.assert_close(found, expected)
    parameters = list(decoder.parameters()) + features
    outer = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, parameters, outer), torch.autograd.grad(expected, parameters, outer)
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_block_does_not_depend_on_which_others_are_rebuilt() -> None:
    decoder, features, where, _ = _made("3-D")
    alone = decoder.rebuild(features, where, torch.tensor([[3], [7]]))
    others = decoder.rebuild(features, where, torch.tensor([[2, 3], [7, 11]]))
    torch.testing.assert_close(alone[0], others[1])
    torch.testing.assert_close(alone[1], others[2])


def test_hidden_blocks_see_what_is_visible_beside_them() -> None:
    """Without that, all hidden blocks of an image would look the same."""
    decoder, features, where, visible = _made("3-D")
    hidden = (~visible).flatten(1).nonzero()[:, 1].reshape(2, -1)
    rebuilt = decoder.rebuild(features, where, hidden)
    gradients = torch.autograd.grad(rebuilt[0].sum(), features)
    assert all(gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0 for gradient in gradients)
    assert not torch.allclose(rebuilt[0], rebuilt[1])


@pytest.mark.parametrize("mode", ["zero", "learned", "scalar_mean", "channel_mean", "image_mean"])
def test_every_scale_has_a_token(mode: str) -> None:
    decoder, features, where, _ = _made("2-D, unequal", mode)
    blocks = torch.tensor([[0, 1, 2, 3, 4, 5]] * 2)
    if mode.endswith("_mean") and mode != "image_mean":
        decoder.rebuild(features, where, blocks)
    tokens = [token for token in decoder.mask_tokens if isinstance(token, MaskToken)]
    assert [len(token.value) for token in tokens] == list(CHANNELS) and {token.mode for token in tokens} == {mode}
    if mode == "channel_mean":
        for token, feature in zip(tokens, features):
            torch.testing.assert_close(token.value.data, feature.detach().flatten(0, 1).mean(0).double())
    before = decoder.rebuild(features, where, blocks)
    for level in range(3):
        with torch.no_grad():
            tokens[level].value += 1
        after = decoder.rebuild(features, where, blocks)
        assert torch.equal(before, after) == (mode == "image_mean")
        before = after
