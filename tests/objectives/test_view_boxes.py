import pytest
import torch

from bdfm_nnunet.objectives.view_boxes import draw_boxes, overlap


def _drawn(axes: int = 3, seed: int = 0, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    settings = {"least_share": 0.5, "least_overlap": 0.5, "together": False} | changes
    generator = torch.Generator().manual_seed(seed)
    return draw_boxes(4000, axes, **settings, generator=generator)  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("least_share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("least_overlap", [0.0, 0.3, 0.9, 1.0])
def test_bounds_hold_for_every_draw(axes: int, least_share: float, least_overlap: float) -> None:
    corners, sides = _drawn(axes, least_share=least_share, least_overlap=least_overlap)
    assert corners.shape == sides.shape == (4000, 2, axes)
    assert (corners >= 0).all() and (corners + sides <= 1 + 1e-12).all()
    shares = sides.prod(-1)
    assert (shares >= least_share - 1e-12).all() and (shares <= 1 + 1e-12).all()
    assert (overlap(corners, sides) >= least_overlap - 1e-9).all()


def test_sides_are_alike_and_shares_uniform() -> None:
    _, sides = _drawn(least_share=0.2)
    assert torch.equal(sides, sides[..., :1].expand_as(sides))
    shares = sides.prod(-1).flatten().sort().values
    torch.testing.assert_close(shares, torch.linspace(0.2, 1, len(shares), dtype=shares.dtype), rtol=0, atol=0.02)


def test_overlap_is_the_counted_one() -> None:
    corners, sides = _drawn(2, least_share=0.1, least_overlap=0.0)
    points = torch.rand(20000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for corner, side, expected in zip(corners[:20], sides[:20], overlap(corners, sides)[:20]):
        first, second = ((points >= c).all(1) & (points < c + s).all(1) for c, s in zip(corner, side))
        counted = (first & second).sum() / min(first.sum(), second.sum())
        assert abs(counted - expected) < 0.04


def test_only_pairs_that_overlap_too_little_move() -> None:
    free, sides = _drawn(least_share=0.2, least_overlap=0.0)
    bound, _ = _drawn(least_share=0.2, least_overlap=0.9)
    enough = overlap(free, sides) >= 0.9
    assert 0.1 < enough.float().mean() < 0.9
    assert torch.equal(bound[enough], free[enough]) and torch.equal(bound[:, 0], free[:, 0])
    torch.testing.assert_close(overlap(bound, sides)[~enough], torch.full((int((~enough).sum()),), 0.9).double())


def test_one_crop_is_the_same_box_twice() -> None:
    corners, sides = _drawn(together=True)
    assert torch.equal(corners[:, 0], corners[:, 1]) and torch.equal(sides[:, 0], sides[:, 1])
    assert not torch.equal(corners[0], corners[1])


def test_generator_decides() -> None:
    assert torch.equal(_drawn()[0], _drawn()[0]) and not torch.equal(_drawn()[0], _drawn(seed=1)[0])
