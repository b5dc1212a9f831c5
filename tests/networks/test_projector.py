import pytest
import torch

from bdfm_nnunet.networks.projector import Projector


def test_it_is_two_products_and_a_rectifier() -> None:
    torch.manual_seed(0)
    projector = Projector(6, 5, 3)
    first, second = projector.state_dict()["0.weight"], projector.state_dict()["2.weight"]
    features = torch.randn(4, 6)
    torch.testing.assert_close(projector(features), (features @ first.T).clamp_min(0) @ second.T)
    assert [tuple(p.shape) for p in projector.parameters()] == [(5, 6), (3, 5)]


def test_defaults_are_the_published_ones() -> None:
    assert [tuple(p.shape) for p in Projector(512).parameters()] == [(512, 512), (64, 512)]
    assert [tuple(p.shape) for p in Projector(64, out=8).parameters()] == [(64, 64), (8, 64)]


@pytest.mark.parametrize("sizes", [(0, 1, 1), (4, 0, 1), (4, 4, 0)])
def test_empty_layers_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Projector(*sizes)
