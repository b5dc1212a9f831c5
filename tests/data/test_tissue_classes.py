"""Classes of tissue, on slabs of three tissues with noise and partial volume."""

import pytest
import torch

from bdfm_nnunet.data.tissue_classes import class_means, class_shares, foreground_quantiles
from bdfm_nnunet.intensity_changes import blurred


def _slabs(noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """Tissues 0.2, 0.5, 1.0, 0.2 along the first axis, 10 voxels each, seen through a filter; and their numbers."""
    numbers = torch.tensor([0, 1, 2, 0]).repeat_interleave(10)[:, None, None].expand(40, 16, 16)
    sharp = torch.tensor([0.2, 0.5, 1.0])[numbers]
    image = blurred(sharp[None, None], torch.tensor([[0.7, 0.7, 0.7]]))[0, 0]
    return image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)), numbers


def test_quantiles_are_those_of_the_foreground_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    values, foreground = torch.randn(9, 8, 7, generator=generator), torch.rand(9, 8, 7, generator=generator) < 0.3
    expected = torch.quantile(values[foreground], torch.linspace(0, 1, 101), interpolation="nearest")
    torch.testing.assert_close(foreground_quantiles(values, foreground), expected)
    assert not foreground_quantiles(values, foreground & False).any()


def test_quantiles_of_a_part_of_the_voxels_are_those_of_all() -> None:
    """The volume has a gradient along its last axis, whose length divides the usual strides."""
    values = torch.arange(64.0).expand(64, 64, 64) / 63
    found = foreground_quantiles(values, values >= 0)
    torch.testing.assert_close(found, torch.linspace(0, 1, 101), atol=0.02, rtol=0)


def test_classes_find_the_tissues_and_leave_out_the_air() -> None:
    image, _ = _slabs()
    found = class_means(foreground_quantiles(image, image > -1), count=3)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.5, 1.0]), atol=0.05, rtol=0)
    air = torch.cat([image, torch.zeros(60, 16, 16)])
    found = class_means(foreground_quantiles(air, air > -1), count=3, above=0.6)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.5, 1.0]), atol=0.05, rtol=0)


def test_tissues_belong_to_their_class_and_edges_to_the_two_beside_them() -> None:
    image, numbers = _slabs()
    shares = class_shares(image, image > -1, torch.tensor([0.2, 0.5, 1.0]))
    torch.testing.assert_close(shares.sum(0), torch.ones(40, 16, 16))
    inner = [place for place in range(40) if 1 < place % 10 < 8]
    assert (shares.argmax(0)[inner] == numbers[inner]).float().mean() > 0.999
    # voxels between 1.0 and 0.2 look like the third tissue, which is not there
    nearest = (image - torch.tensor([0.2, 0.5, 1.0]).reshape(3, 1, 1, 1)).abs().argmin(0)
    assert (nearest[30] == 1).float().mean() > 0.8 and shares[1, 30].mean() < 0.1 < 0.8 < shares[1, 10].mean()


@pytest.mark.parametrize("shape", [(40,), (20, 24), (3, 17, 20), (2, 2, 2), (1, 9, 9)])
def test_shares_of_images_of_any_shape_and_content_are_finite(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    for image in (torch.randn(shape, generator=generator), torch.zeros(shape), torch.ones(shape) * 1e4):
        for foreground in (image != 0, image < -1e9):
            means = class_means(foreground_quantiles(image, foreground), count=5)
            shares = class_shares(image, foreground, means, finest=(1.0,) * len(shape))
            assert shares.shape == (5, *shape) and shares.isfinite().all()
            torch.testing.assert_close(shares.sum(0), torch.ones(shape))


def test_thick_slices_are_no_neighbours() -> None:
    image = torch.randn(6, 24, 24, generator=torch.Generator().manual_seed(4)) + torch.arange(6.0)[:, None, None]
    means = class_means(foreground_quantiles(image, image != 0), count=4)
    other = image.clone()
    other[0] += 3
    for finest, same in (((0.2, 1.0, 1.0), True), ((1.0, 1.0, 1.0), False)):
        first, second = (class_shares(each, each != 0, means, finest=finest)[:, 1] for each in (image, other))
        assert torch.allclose(first, second, atol=0.02) == same
