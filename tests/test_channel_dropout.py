import pytest
import torch

from bdfm_nnunet.channel_dropout import draw_channels, only_channels


def _draw(samples: int, channels: int, dropout: float, seed: int = 0) -> torch.Tensor:
    return draw_channels(samples, channels, dropout=dropout, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.5, 0.999])
def test_channels_are_left_out_as_often_as_asked_and_never_all(dropout: float) -> None:
    kept = _draw(20_000, 3, dropout)
    assert kept.any(1).all()
    # all three would be left out with probability dropout ** 3, and then one of them stays
    expected = 1 - dropout + dropout**3 / 3
    assert kept.float().mean(0).tolist() == pytest.approx([expected] * 3, abs=0.012)


def test_channels_are_drawn_apart() -> None:
    kept = _draw(40_000, 4, 0.5)
    subsets = {tuple(row) for row in kept.tolist()}
    assert len(subsets) == 15
    pairs = (kept[:, 0] & kept[:, 1]).float().mean()
    assert pairs.item() == pytest.approx(0.25, abs=0.01)


def test_draws_are_those_of_the_generator() -> None:
    assert torch.equal(_draw(50, 4, 0.5), _draw(50, 4, 0.5)) and not torch.equal(
        _draw(50, 4, 0.5), _draw(50, 4, 0.5, 1)
    )


@pytest.mark.parametrize(("shape", "axis"), [((2, 4, 3, 3), 1), ((2, 5, 4, 3), 2)])
def test_zeros_stand_for_what_is_left_out_and_further_channels_stay(shape: tuple[int, ...], axis: int) -> None:
    images = torch.full(shape, float("nan"))
    images.select(axis, 0).copy_(torch.randn(images.select(axis, 0).shape))
    images.select(axis, 3).fill_(7.0)  # as of a cascade's previous stage
    before = images.clone()
    found = only_channels(images, torch.tensor([[True, False, False], [False, False, False]]), axis=axis)
    assert torch.equal(found[0].select(axis - 1, 0), before[0].select(axis - 1, 0))
    assert (found[1].select(axis - 1, 0) == 0).all() and (found.select(axis, 1) == 0).all()
    assert (found.select(axis, 3) == 7).all() and images.isnan().any()
