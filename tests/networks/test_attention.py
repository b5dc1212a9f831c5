from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.networks import attention
from bdfm_nnunet.networks.attention import window_attention
from bdfm_nnunet.networks.attention_windows import WindowGroup, window_groups

CPU = torch.device("cpu")
HEADS, WIDTH = 3, 4
GRID, WINDOW, SHIFT = (5, 4), (3, 4), (1, 0)


def _inputs(*, legacy: bool, batch: int = 2) -> tuple[Tensor, tuple[WindowGroup, ...], list[Tensor]]:
    torch.manual_seed(0)
    groups = window_groups(GRID, WINDOW, SHIFT, WINDOW, legacy, CPU)
    tokens = 20 + any(group.padded for group in groups)
    qkv = torch.randn(batch, tokens, 3 * HEADS * WIDTH, dtype=torch.float64, requires_grad=True)
    biases = [torch.randn(HEADS, *group.index.shape, dtype=torch.float64, requires_grad=True) for group in groups]
    return qkv, groups, biases


def _plain(qkv: Tensor, groups: Sequence[WindowGroup], biases: Sequence[Tensor]) -> Tensor:
    """One window, one head after the other."""
    query, key, value = qkv.unflatten(2, (3, HEADS, WIDTH)).unbind(2)
    result = torch.zeros_like(query)
    for group, bias in zip(groups, biases, strict=True):
        for rows in group.rows:
            for head in range(HEADS):
                scores = query[:, rows, head] @ key[:, rows, head].transpose(1, 2) / WIDTH**0.5 + bias[head]
                result[:, rows, head] = scores.softmax(-1) @ value[:, rows, head]
    return result.flatten(2)


@pytest.fixture(params=["cache", "one window", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All windows that fit in the cache at once, one at a time, or PyTorch's own kernel."""
    if request.param == "one window":
        monkeypatch.setattr(attention, "CACHE_BYTES", 1)
    if request.param == "kernel":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return str(request.param)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.usefixtures("way")
def test_values_and_gradients(legacy: bool) -> None:
    inputs = _inputs(legacy=legacy)
    qkv, groups, biases = inputs
    real = slice(None, 20)  # what comes out for padding is never read
    ours, plain = window_attention(*inputs)[:, real], _plain(*inputs)[:, real]
    torch.testing.assert_close(ours, plain)
    outer = torch.randn_like(plain)
    for first, second in zip(
        torch.autograd.grad(ours, [qkv, *biases], outer), torch.autograd.grad(plain, [qkv, *biases], outer)
    ):
        torch.testing.assert_close(first, second)
    assert len(groups) > 1


@pytest.mark.usefixtures("way")
def test_gradients_by_finite_differences() -> None:
    qkv, groups, biases = _inputs(legacy=False, batch=1)
    assert torch.autograd.gradcheck(lambda q, *b: window_attention(q, groups, b), (qkv, *biases))


def test_nothing_is_kept_without_gradients() -> None:
    qkv, groups, biases = _inputs(legacy=False)
    with torch.no_grad():
        assert not window_attention(qkv, groups, biases).requires_grad
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pytest.fail("something is kept"), lambda x: x):
        window_attention(qkv.detach(), groups, [bias.detach() for bias in biases])


def test_half_precision_is_as_exact_as_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, groups, biases = _inputs(legacy=False)
    exact = torch.autograd.grad(window_attention(qkv, groups, biases).sin().sum(), [qkv, *biases])
    errors = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=compiling: value)
        half, singles = qkv.detach().bfloat16().requires_grad_(), [b.detach().float().requires_grad_() for b in biases]
        found = torch.autograd.grad(window_attention(half, groups, singles).float().sin().sum(), [half, *singles])
        assert [gradient.dtype for gradient in found] == [torch.bfloat16] + [torch.float32] * len(biases)
        errors.append([(a - b).norm() / b.norm() for a, b in zip(found, exact)])
    assert max(errors[0]) < 0.03
    assert all(a <= 2 * b for a, b in zip(*errors))


def test_memory_that_is_kept_is_one_set_of_probabilities() -> None:
    qkv, groups, biases = _inputs(legacy=False)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attended = window_attention(qkv, groups, biases)
    probabilities = sum(2 * HEADS * group.rows.shape[0] * group.rows.shape[1] ** 2 for group in groups) * 8
    others = qkv.nbytes + attended.nbytes + sum(bias.nbytes for bias in biases)
    assert sum(kept.values()) == probabilities + others


def test_heads_do_not_mix() -> None:
    qkv, groups, biases = _inputs(legacy=False)
    before = window_attention(qkv, groups, biases)
    changed = qkv.detach().clone()
    changed.unflatten(2, (3, HEADS, WIDTH))[:, :, :, 1] += 1
    after = window_attention(changed, groups, biases)
    same = [
        (before.unflatten(2, (HEADS, WIDTH)) == after.unflatten(2, (HEADS, WIDTH)))[:, :, head].all().item()
        for head in range(HEADS)
    ]
    assert same == [True, False, True]
    assert all(a is not b for a, b in pairwise(biases))
