"""Layers that keep only their input have the values and gradients of plain ones."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bdfm_nnunet.networks import recomputed_layers
from bdfm_nnunet.networks.recomputed_layers import normed_perceptron
from bdfm_nnunet.networks.swin import Perceptron


def _made(dtype: torch.dtype = torch.double) -> tuple[Tensor, nn.LayerNorm, Perceptron]:
    torch.manual_seed(0)
    norm, perceptron = nn.LayerNorm(6, eps=0.1), Perceptron(6, 10)
    for parameter in (*norm.parameters(), *perceptron.parameters()):
        nn.init.normal_(parameter)
    return torch.randn(2, 5, 6, dtype=dtype, requires_grad=True), norm.to(dtype), perceptron.to(dtype)


def _gradients(out: Tensor, tokens: Tensor, *modules: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    outer = torch.randn(out.shape, generator=generator, dtype=torch.double).to(out.dtype)
    return list(torch.autograd.grad(out, [tokens, *(p for module in modules for p in module.parameters())], outer))


@pytest.mark.parametrize("kept_from", [0, 7])
def test_a_perceptron_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, kept_from: int) -> None:
    monkeypatch.setattr(recomputed_layers, "KEPT_FROM", kept_from)
    tokens, norm, perceptron = _made()
    found, expected = (
        normed_perceptron(tokens, norm, perceptron),
        perceptron[2](perceptron[1](perceptron[0](norm(tokens)))),
    )
    torch.testing.assert_close(found, expected)
    for ours, plain in zip(
        _gradients(found, tokens, norm, perceptron), _gradients(expected, tokens, norm, perceptron), strict=True
    ):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(("kept_from", "kept"), [(0, [6, 10]), (7, [6])])
def test_narrow_layers_keep_only_their_input(monkeypatch: pytest.MonkeyPatch, kept_from: int, kept: list[int]) -> None:
    monkeypatch.setattr(recomputed_layers, "KEPT_FROM", kept_from)
    tokens, norm, perceptron = _made()
    shapes: list[tuple[int, ...]] = []
    with saved_tensors_hooks(lambda tensor: (shapes.append(tuple(tensor.shape)), tensor)[1], lambda tensor: tensor):
        normed_perceptron(tokens, norm, perceptron)
    assert [shape[-1] for shape in shapes if shape[:-1] == (2, 5)] == kept


def test_autocast_reaches_the_products() -> None:
    tokens, norm, perceptron = _made(torch.float)
    exact = _gradients(perceptron(norm(tokens)), tokens, norm, perceptron)
    with torch.autocast("cpu", dtype=torch.float16):
        out = normed_perceptron(tokens, norm, perceptron)
    assert out.dtype == torch.float16
    for half, full in zip(_gradients(out, tokens, norm, perceptron), exact, strict=True):
        assert half.dtype == torch.float32 and 0 < (half - full).norm() < 0.01 * full.norm()
