import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bdfm_nnunet.hashed_noise import draw_keys
from bdfm_nnunet.networks.redundancy_dropout import (
    RedundancyDropout,
    drop_probabilities,
    published_probabilities,
    redundancy,
)
from tests.golden_outputs import golden_tensors

_GENERATOR = torch.Generator().manual_seed(0)
LEVELS = torch.linspace(0, 0.9, 6)
WIDTH = 5  # of a slab: tokens in its middle have no neighbours in others


def _planted(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Tokens (B, 30, 3, 3, 5, 64), of which a share is common to a slab along x; and that share, (B, 30, 3, 3, 5)."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, len(LEVELS) * WIDTH, 3, 3, 5, 64)
    share = LEVELS[torch.stack([torch.randperm(len(LEVELS), generator=generator) for _ in range(batch)])]
    share = share.repeat_interleave(WIDTH, 1).reshape(batch, -1, 1, 1, 1, 1)
    common = torch.randn(batch, len(LEVELS), 1, 1, 1, 64, generator=generator).repeat_interleave(WIDTH, 1)
    tokens = share.sqrt() * common + (1 - share).sqrt() * torch.randn(shape, generator=generator)
    return tokens, share[..., 0].expand(shape[:-1])


def _ranks(values: Tensor) -> Tensor:
    """Ranks of (N,), the mean one for equal values."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[inverse].double()


def test_redundancy_is_the_mean_cosine_with_neighbours_in_space_and_in_time() -> None:
    tokens = torch.randn(2, 4, 2, 5, 4, 7, generator=_GENERATOR) + 0.3
    found = redundancy(tokens)
    for place in [(0, 0, 0, 0), (2, 1, 4, 1)]:
        space, time = [], []
        for other in product(*map(range, tokens.shape[1:-1])):
            apart = [abs(a - b) for a, b in zip(place, other, strict=True)]
            if max(apart) > 2 or not any(apart):
                continue
            cosine = cosine_similarity(tokens[(slice(None), *place)], tokens[(slice(None), *other)], dim=-1)
            if apart[-1] == 0:
                space.append(cosine)
            elif not any(apart[:-1]):
                time.append(cosine)
        expected = (torch.stack(space).mean(0) + torch.stack(time).mean(0)) / 2
        torch.testing.assert_close(found[(slice(None), *place)], expected)


def test_probability_grows_with_planted_redundancy() -> None:
    tokens, share = _planted()
    found = drop_probabilities(tokens, 0.2)
    for chance, planted in zip(found, share, strict=True):
        middle = chance[2::WIDTH], planted[2::WIDTH]
        ranks = torch.stack([_ranks(each.flatten()) for each in middle])
        assert torch.corrcoef(ranks)[0, 1] > 0.9
        by_level = torch.stack([middle[0][middle[1] == level].mean() for level in planted.unique()])
        assert (by_level.diff() > 0).all()


@pytest.mark.parametrize("target", [0.05, 0.2, 0.5, 0.8])
def test_as_many_tokens_are_dropped_as_asked_for(target: float) -> None:
    for tokens in (_planted()[0], torch.randn(2, 20, 4, 4, 6, 8, generator=_GENERATOR)):
        chance = drop_probabilities(tokens, target)
        torch.testing.assert_close(chance.flatten(1).mean(1), torch.full((2,), target), rtol=1e-3, atol=0)
        assert chance.min() >= 0 and chance.max() <= 0.9
        dropout = RedundancyDropout(target)
        dropped = (dropout(tokens, draw_keys(2, generator=_GENERATOR)) == 0).all(-1).flatten(1).float().mean(1)
        torch.testing.assert_close(dropped, torch.full((2,), target), rtol=0.1, atol=0.01)


def test_scale_does_not_matter() -> None:
    tokens, _ = _planted()
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(drop_probabilities(scale * tokens, 0.3), drop_probabilities(tokens, 0.3))
    alike = torch.ones(1, 3, 3, 3, 3, 4)
    for same in (alike, alike * torch.tensor([-1.0, 1.0, -1.0]).reshape(3, 1, 1), 0 * alike):
        torch.testing.assert_close(drop_probabilities(same[..., :1, :, :], 0.3).mean(), torch.tensor(0.3))


def test_what_stays_is_scaled_so_that_the_mean_stays() -> None:
    tokens, _ = _planted(batch=1)
    dropout = RedundancyDropout(0.4)
    sums = torch.zeros_like(tokens)
    for seed in range(60):
        sums += dropout(tokens, torch.tensor([[seed, 1]]))
    mean = sums / 60
    assert abs(float((mean * tokens).mean() / tokens.square().mean()) - 1) < 0.03
    chance = drop_probabilities(tokens, 0.4)
    often = chance > 0.1
    error = (mean / tokens - 1)[..., 0] * (60 * (1 - chance) / chance).sqrt()
    assert often.float().mean() > 0.5 and error[often].abs().max() < 6


def test_what_is_dropped_depends_on_keys_and_stream_alone() -> None:
    tokens, _ = _planted()
    dropout, other = RedundancyDropout(0.3), RedundancyDropout(0.3, stream=1)
    assert dropout(tokens, None) is tokens
    keys = draw_keys(2, generator=_GENERATOR)
    first = dropout(tokens, keys)
    assert torch.equal(first, dropout(tokens, keys)) and not torch.equal(first == 0, other(tokens, keys) == 0)
    assert torch.equal(dropout(tokens[1:], keys[1:]), first[1:])
    assert dropout.eval()(tokens, keys) is tokens


def test_gradients_flow_through_what_stays_and_not_through_probabilities() -> None:
    tokens = _planted(batch=1)[0].requires_grad_()
    dropout = RedundancyDropout(0.3)
    out = dropout(tokens, torch.tensor([[3, 4]]))
    out.sum().backward()
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad, (out / tokens).detach())


def test_published_probabilities_are_the_recorded_ones() -> None:
    golden = golden_tensors("neurostorm_small")
    found = published_probabilities(golden["mamba_0_0.out"].double(), (4, 4, 4, 4))
    expected = golden["strd_probability_0_0"].double()
    assert (found - expected).abs().max() < 1e-4 * expected.max()
    dropout = RedundancyDropout(0.1, legacy=True)
    windows = golden["mamba_0_0.out"].reshape(2, 2, 2, 2, 2, 4, 4, 4, 4, 12)
    grid = windows.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9).reshape(2, 8, 8, 8, 8, 12)
    whole = dropout.probabilities(grid, (4, 4, 4, 4), (0, 0, 0, 0)).reshape(2, 2, 4, 2, 4, 2, 4, 2, 4)
    whole = whole.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).reshape(32, 256)
    assert (whole - expected).abs().max() < 1e-4 * expected.max()


def test_published_probabilities_agree_with_a_slow_form() -> None:
    window = (2, 1, 4, 3)
    tokens = 2 * torch.randn(2, math.prod(window), 5, generator=_GENERATOR, dtype=torch.float64)
    found = published_probabilities(tokens, window)
    places = list(product(*map(range, window)))
    for n, i in ((0, 0), (1, 5), (0, 22)):
        row = (tokens[n, i] @ tokens[n].T / 5**0.5).softmax(0)
        space = [j for j, p in enumerate(places) if j != i and p[3] == places[i][3] and abs(p[2] - places[i][2]) < 3]
        time = [j for j, p in enumerate(places) if j != i and p[:3] == places[i][:3]]
        shares = 0.5 * (row[time].max() * row / row[space].sum() + row[space].max() * row / row[time].sum())
        expected = shares.clamp(0, 1).sum() / (len(space) + len(time))
        torch.testing.assert_close(found[n, i], expected.clamp(0, 1))


def test_the_published_form_is_not_calibrated() -> None:
    tokens, _ = _planted(batch=1)
    small, large = (published_probabilities(scale * tokens[:, :4].flatten(1, -2), (4, 3, 3, 5)) for scale in (0.1, 3.0))
    assert not torch.allclose(small.mean(), large.mean(), rtol=0.5)
    dropout = RedundancyDropout(0.3, legacy=True)
    kept = dropout(3 * tokens, torch.tensor([[3, 4]]), (6, 3, 3, 5), (3, 0, 0, 0))
    assert ((kept == 0) | (kept == 3 * tokens)).all() and (kept == 0).any()  # nothing is scaled


@pytest.mark.parametrize("target", [0.0, 0.95])
def test_a_share_that_cannot_be_dropped_is_an_error(target: float) -> None:
    with pytest.raises(ValueError, match="tokens to drop, expected one above 0"):
        RedundancyDropout(target)
