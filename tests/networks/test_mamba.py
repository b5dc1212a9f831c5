import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.networks.mamba import Mamba
from tests.networks.neurostorm_slow import slow_mamba


def _mamba(**options: Any) -> Mamba:
    torch.manual_seed(0)
    mamba = Mamba(20, **options).double()
    with torch.no_grad():
        for parameter in (mamba.A_log, mamba.D, mamba.conv1d.bias, mamba.dt_proj.bias):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mamba


def _tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, 20, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def _weights(mamba: Mamba) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in mamba.state_dict().items()}


def test_it_is_the_recurrence_of_the_paper() -> None:
    mamba, tokens = _mamba(), _tokens(3, 9)
    assert mamba.rank == 2
    torch.testing.assert_close(mamba(tokens), slow_mamba(tokens, _weights(mamba)))


def test_sizes_and_start_are_those_of_the_published_layer() -> None:
    mamba = Mamba(36)
    shapes = {name: tuple(value.shape) for name, value in mamba.named_parameters()}
    assert shapes == {
        "A_log": (72, 16), "D": (72,), "in_proj.weight": (144, 36), "conv1d.weight": (72, 1, 4), "conv1d.bias": (72,),
        "x_proj.weight": (35, 72), "dt_proj.weight": (72, 3), "dt_proj.bias": (72,), "out_proj.weight": (36, 72),
    }  # fmt: skip
    torch.testing.assert_close(mamba.A_log.exp(), torch.arange(1.0, 17).expand(72, 16))
    steps = functional.softplus(mamba.dt_proj.bias)
    assert 1e-3 <= steps.min() < 1e-2 < steps.max() <= 0.1 + 1e-6
    assert 0.3 < mamba.dt_proj.weight.abs().max() <= 3**-0.5
    other = Mamba(8, states=4, kernel=3, expansion=3)
    assert other.A_log.shape == (24, 4) and other.conv1d.weight.shape == (24, 1, 3)
    assert other(torch.rand(1, 5, 8)).shape == (1, 5, 8)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("prompts", [0, 2])
def test_tokens_that_are_not_valid_might_as_well_not_be_there(both: bool, prompts: int) -> None:
    mamba, tokens = _mamba(both_directions=both), _tokens(3, 8)
    if mamba.reverse_gate is not None:
        mamba.reverse_gate.data.normal_()
    valid = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1, 1], [1] * 8]).bool()
    front = _tokens(5, 1)[:prompts, 0]
    out = mamba(tokens, valid=valid, prompts=front)
    for sequence, kept, found in zip(tokens, valid, out, strict=True):
        alone = mamba(sequence[kept][None], prompts=front)[0]
        torch.testing.assert_close(found[kept], alone)
        assert not found[~kept].any()
    assert not torch.allclose(out[0, 4], mamba(tokens, prompts=front)[0, 4])


@pytest.mark.parametrize("count", [1, 3, 7])
def test_prompts_are_tokens_in_front_of_every_sequence(count: int) -> None:
    mamba, tokens = _mamba(), _tokens(3, 6)
    prompts = _tokens(count, 1)[:, 0].requires_grad_()
    plain = slow_mamba(torch.cat([prompts.expand(3, -1, -1), tokens], 1), _weights(mamba))[:, count:]
    cached = mamba(tokens, prompts=prompts)
    torch.testing.assert_close(cached, plain)
    weight = _tokens(3, 6).flip(0)
    slow, fast = (torch.autograd.grad((out * weight).sum(), prompts)[0] for out in (plain, cached))
    torch.testing.assert_close(fast, slow)
    assert not torch.allclose(cached, mamba(tokens))


def test_a_second_direction_starts_without_effect_and_is_learned() -> None:
    one, both, tokens = _mamba(), _mamba(both_directions=True), _tokens(2, 7)
    both.load_state_dict(_weights(one), strict=False)
    torch.testing.assert_close(both(tokens), one(tokens))
    last = tokens.clone()
    last[:, -1] += 1
    assert torch.equal(both(last)[:, :-1], both(tokens)[:, :-1])
    both(tokens).square().sum().backward()
    assert both.reverse_gate is not None and both.reverse_gate.grad is not None
    with torch.no_grad():
        both.reverse_gate -= 0.1 * both.reverse_gate.grad.sign()
    assert (both(last)[:, 0] - both(tokens)[:, 0]).abs().min() > 1e-9


def test_the_second_direction_is_the_first_one_on_the_reversed_sequence() -> None:
    mamba, tokens = _mamba(both_directions=True), _tokens(2, 7)
    assert mamba.reverse_gate is not None
    with torch.no_grad():
        mamba.reverse_gate.fill_(1.0)
    weights = {name: value for name, value in _weights(mamba).items() if name != "reverse_gate"}
    expected = slow_mamba(tokens, weights) + slow_mamba(tokens.flip(1), weights).flip(1)
    torch.testing.assert_close(mamba(tokens), expected)


def test_padding_never_gets_a_gradient() -> None:
    mamba, tokens = _mamba(), _tokens(1, 5).requires_grad_()
    mamba(tokens, valid=torch.tensor([[True, False, True, True, False]])).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, [1, 4]].abs().max() == 0 < tokens.grad[0, [0, 2, 3]].abs().min(1).values.min()
    assert math.isfinite(float(tokens.grad.sum()))
