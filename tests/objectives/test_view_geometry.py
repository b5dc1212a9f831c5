import math

import pytest
import torch

from bdfm_nnunet.objectives.view_geometry import rotations, sampled, view_matrices


def _matrix(spatial: tuple[int, ...], spacing: tuple[float, ...], **changes: torch.Tensor) -> torch.Tensor:
    axes = len(spatial)
    whole = {
        "corners": torch.zeros(1, axes),
        "sides": torch.ones(1, axes),
        "flips": torch.zeros(1, axes, dtype=torch.bool),
        "angles": torch.zeros(1, 3 if axes == 3 else 1),
        "zooms": torch.ones(1),
    }
    return view_matrices(**(whole | changes), spacing=spacing, spatial=spatial)  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [2, 3])
def test_the_whole_image_is_itself(axes: int) -> None:
    image = torch.rand(1, 2, *(9, 8, 7)[:axes])
    view = sampled(image, _matrix(image.shape[2:], (1.0, 2.0, 3.0)[:axes]), image.shape[2:])
    torch.testing.assert_close(view, image, rtol=0, atol=1e-5)


def test_a_box_is_that_part_of_the_image() -> None:
    image = torch.rand(1, 1, 8, 8, 8)
    matrix = _matrix(
        (8, 8, 8), (1.0,) * 3, corners=torch.tensor([[0.25, 0.0, 0.5]]), sides=torch.tensor([[0.5, 1.0, 0.5]])
    )
    view = sampled(image, matrix, (4, 8, 4))
    torch.testing.assert_close(view, image[:, :, 2:6, :, 4:], rtol=0, atol=1e-5)


def test_flips_reverse_their_axis() -> None:
    image = torch.rand(1, 1, 6, 7, 8)
    for axis in range(3):
        flips = torch.arange(3)[None] == axis
        view = sampled(image, _matrix((6, 7, 8), (1.0,) * 3, flips=flips), (6, 7, 8))
        torch.testing.assert_close(view, image.flip(axis + 2), rtol=0, atol=1e-5)


def test_rotations_are_orthogonal_and_differ() -> None:
    angles = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices = rotations(angles)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    assert (torch.linalg.det(matrices) > 0.999).all()
    for axis in range(3):
        one = rotations(torch.nn.functional.one_hot(torch.tensor(axis), 3).double())
        assert one[axis, axis] == 1 and (one[axis].sum() == 1)


def test_anisotropic_voxels_are_turned_in_millimetres() -> None:
    """A quarter turn maps each point to the one that is as far away in mm, along the other axis."""
    spacing, spatial = (4.0, 1.0), (10, 40)
    first, second = (step * (torch.arange(size) + 0.5 - size / 2) for step, size in zip(spacing, spatial))

    def blob(at: float, along: float) -> torch.Tensor:
        return (-((first[:, None] - at) ** 2 + (second - along) ** 2) / 50).exp()[None, None]

    angles = torch.tensor([[math.pi / 2]])
    view = sampled(blob(2.0, 12.5), _matrix(spatial, spacing, angles=angles), spatial)
    torch.testing.assert_close(view, blob(12.5, -2.0), rtol=0, atol=0.1)
    assert (view - blob(-12.5, 2.0)).abs().max() > 0.5


def test_zoom_shows_more_and_what_lies_outside_is_zero_or_the_edge() -> None:
    image = torch.ones(1, 1, 8, 8)
    matrix = _matrix((8, 8), (1.0, 1.0), zooms=torch.tensor([2.0]))
    inside = sampled(image, matrix, (8, 8))
    assert (inside[..., 2:6, 2:6] == 1).all() and inside.sum() == 16
    assert (sampled(image, matrix, (8, 8), outside="edge") == 1).all()
