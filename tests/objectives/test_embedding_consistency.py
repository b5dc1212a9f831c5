import pytest
import torch

from bdfm_nnunet.objectives.embedding_consistency import consistency_loss, embedding_scores

FEATURES = torch.randn(6, 8, 3, 2, generator=torch.Generator().manual_seed(0))


def _cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first @ second / (first.norm() * second.norm())


def test_it_is_its_formula() -> None:
    pooled, dense = [], []
    for first, second in zip(FEATURES[::2], FEATURES[1::2], strict=True):
        pooled.append(_cosine(first.mean((1, 2)), second.mean((1, 2))))
        dense += [_cosine(first[:, i, j], second[:, i, j]) for i in range(3) for j in range(2)]
    expected = {"pooled": 1 - sum(pooled) / 3, "last_stage": 1 - sum(dense) / 18}
    expected["both"] = (expected["pooled"] + expected["last_stage"]) / 2
    for part, value in expected.items():
        torch.testing.assert_close(consistency_loss(FEATURES, part=part), value)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_stop_gradient_keeps_the_second_as_it_is(stop_gradient: bool) -> None:
    features = FEATURES.clone().requires_grad_()
    consistency_loss(features, stop_gradient=stop_gradient).backward()
    assert features.grad is not None
    assert features.grad[::2].abs().sum() > 0
    assert bool((features.grad[1::2] == 0).all()) == stop_gradient
    torch.testing.assert_close(consistency_loss(FEATURES, stop_gradient=True), consistency_loss(FEATURES))


def test_it_is_finite_at_zero_and_in_single_precision() -> None:
    features = torch.zeros(2, 4, 3, requires_grad=True)
    consistency_loss(features).backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert consistency_loss(FEATURES.bfloat16()).dtype == torch.float32


def test_collapse_is_seen() -> None:
    spread = embedding_scores(torch.randn(4, 16, 5, 5), views=2)
    assert spread["embedding_spread"] > 0.9 and spread["effective_rank"] > 14
    one = torch.randn(1, 16, 1, 1) + 1e-3 * torch.randn(4, 16, 5, 5)
    collapsed = embedding_scores(one, views=2)
    assert collapsed["embedding_spread"] < 0.01 and collapsed["embedding_cosine"] > 0.99
    line = torch.randn(4, 1, 5, 5) * torch.randn(1, 16, 1, 1)  # all embeddings on one axis
    assert embedding_scores(line, views=1)["effective_rank"] < 1.01
    assert "embedding_cosine" not in embedding_scores(line, views=1)
