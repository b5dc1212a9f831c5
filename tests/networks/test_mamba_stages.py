"""Blocks against the published ones step by step, and their faults: opposite faces and padding that is scanned."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.networks.mamba_stages import MambaBlock, MambaStage, add_prompts
from tests.networks.neurostorm_slow import Weights, slow_block

GRID = (6, 5, 2, 6)  # of windows of 4: padded, padded, clipped, padded


def _block(channels: int = 4, **options: Any) -> MambaBlock:
    torch.manual_seed(0)
    block = MambaBlock(channels, **({"window_size": (4, 4, 4, 4), "shifted": True} | options)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block


def _tokens(*grid: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, *grid, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def _public(block: MambaBlock) -> Weights:
    """The weights of a block by the names of the public code."""
    names = {name: name.replace("mlp.0", "mlp.linear1").replace("mlp.2", "mlp.linear2") for name in block.state_dict()}
    return {names[name]: value for name, value in block.state_dict().items()}


@pytest.mark.parametrize("shifted", [False, True])
def test_a_legacy_block_is_the_published_one(shifted: bool) -> None:
    block, tokens = _block(shifted=shifted, legacy=True), _tokens(*GRID, batch=2)
    torch.testing.assert_close(block(tokens), slow_block(tokens, _public(block), shifted=shifted))


@pytest.mark.parametrize("legacy", [False, True])
def test_blocks_without_border_and_padding_are_the_published_ones(legacy: bool) -> None:
    block, tokens = _block(shifted=False, legacy=legacy), _tokens(8, 4, 2, 4)
    torch.testing.assert_close(block(tokens), slow_block(tokens, _public(block), shifted=False))


def _changed(block: MambaBlock, axis: int, *, grid: tuple[int, ...] = (8, 8, 8, 8)) -> Tensor:
    """How much the first slab of an axis changes when the last one does."""
    tokens = _tokens(*grid)
    other = tokens.clone()
    other.select(axis, -1).add_(_tokens(*grid).flip(1).select(axis, 0))
    with torch.no_grad():
        return (block(other) - block(tokens)).select(axis, 0).abs().max()


@pytest.mark.parametrize("axis", [1, 4])
def test_the_last_slab_and_frame_do_not_reach_the_first(axis: int) -> None:
    assert _changed(_block(), axis) == 0
    assert _changed(_block(legacy=True), axis) > 1e-9


@pytest.mark.parametrize("shifted", [False, True])
def test_each_window_of_the_default_is_scanned_alone(shifted: bool) -> None:
    block, tokens = _block(shifted=shifted), _tokens(*GRID)
    expected = torch.zeros_like(tokens)
    cuts = [(0, 2, 6), (0, 2, 5), (0, 2), (0, 2, 6)] if shifted else [(0, 4, 6), (0, 4, 5), (0, 2), (0, 4, 6)]
    for corner in torch.cartesian_prod(*(torch.arange(len(cut) - 1) for cut in cuts)):
        place = (slice(None), *(slice(cut[i], cut[i + 1]) for cut, i in zip(cuts, corner.tolist())))
        expected[place] = block.mamba(tokens[place].flatten(1, 4)).reshape(tokens[place].shape)
    torch.testing.assert_close(block.scan(tokens), expected)


def test_padding_has_no_effect() -> None:
    """Six frames are the first of eight: their features are the same whether two more are there, were cut, or none."""
    block, legacy = _block(shifted=False), _block(shifted=False, legacy=True)
    tokens = _tokens(4, 4, 2, 8)
    for each, kept in ((block, True), (legacy, False)):
        # the windows of four frames cut at six: the last two frames of the second window are padding
        short = each(tokens[..., :6, :])
        padded = each(torch.cat([tokens[..., :6, :], torch.zeros_like(tokens)[..., :2, :]], -2))[..., :6, :]
        alone = each(tokens[..., 4:6, :])
        assert torch.allclose(short[..., 4:6, :], alone) is kept
        assert not torch.allclose(short, padded)  # zeros are tokens too, once they are in the image


@pytest.mark.parametrize("legacy", [False, True])
def test_prompts_are_in_front_of_every_window(legacy: bool) -> None:
    block, tokens = _block(legacy=legacy, shifted=legacy), _tokens(8, 4, 2, 4)
    plain = block(tokens)
    (prompt,) = add_prompts(block, 5, generator=torch.Generator().manual_seed(0))
    assert 0.01 < prompt.std() < 0.03 and block.prompt is prompt and "prompt" in block.state_dict()
    with torch.no_grad():
        prompt.mul_(50)
    torch.testing.assert_close(block(tokens), slow_block(tokens, _public(block), shifted=legacy))
    assert not torch.allclose(block(tokens), plain)
    block(tokens).square().sum().backward()
    assert prompt.grad is not None and prompt.grad.abs().min(1).values.min() > 0


def test_a_block_that_is_given_prompts_has_them() -> None:
    source, target = _block(), _block()
    add_prompts(source, 3, generator=torch.Generator().manual_seed(0))
    target.load_state_dict(source.state_dict())
    tokens = _tokens(4, 4, 2, 4)
    assert torch.equal(source(tokens), target(tokens)) and not torch.equal(_block()(tokens), target(tokens))
    assert "prompt" in dict(target.named_parameters())


def test_prompts_that_cannot_be_are_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="0 prompts a block, expected at least 1"):
        add_prompts(_block(), 0, generator=generator)
    with pytest.raises(ValueError, match="Linear has no blocks that scan"):
        add_prompts(torch.nn.Linear(1, 1), generator=generator)


def test_both_directions_start_as_one() -> None:
    one, both = _block(), _block(both_directions=True)
    both.load_state_dict(one.state_dict(), strict=False)
    assert both.mamba.reverse_gate is not None
    both.mamba.reverse_gate.data.zero_()
    tokens = _tokens(*GRID)
    torch.testing.assert_close(both(tokens), one(tokens))
    both.mamba.reverse_gate.data.fill_(1.0)
    assert _changed(both, 4) == 0  # nor does the second direction join what is not in one window
    assert not torch.allclose(both(tokens), one(tokens))


def test_recomputed_blocks_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        stage = MambaStage([_block(), _block()], checkpointing=checkpointing).train()
        tokens = _tokens(4, 4, 2, 6).requires_grad_()
        stage(tokens).square().sum().backward()
        found.append([tokens.grad, *(each.grad for each in stage.parameters())])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_a_grid_of_any_axes() -> None:
    block = MambaBlock(4, window_size=(2, 3), shifted=True)
    assert block(torch.rand(2, 5, 7, 4)).shape == (2, 5, 7, 4)
