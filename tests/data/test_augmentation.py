from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.data.augmentation import RandomAffine, mirrored, resampled, source_size

SPACING = (3.0, 1.0, 0.8)


def test_mirrored_reverses_the_axes_that_were_drawn() -> None:
    images = torch.arange(3 * 2 * 3 * 4 * 5).reshape(3, 2, 3, 4, 5)
    flips = torch.tensor([[False, False, False], [True, False, True], [False, True, False]])
    result = mirrored(images, flips)
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[1], images[1].flip(1, 3))
    assert torch.equal(result[2], images[2].flip(2))
    result.zero_()
    assert images.any()


def _drawn(count: int, **settings: Any) -> list[Any]:
    rng = np.random.default_rng(5)
    affine = RandomAffine(**({"spacing": SPACING} | settings))
    return [affine.draw(rng) for _ in range(count)]


def test_as_many_crops_are_turned_and_scaled_as_asked_for() -> None:
    drawn = _drawn(3000)
    assert abs(np.mean([matrix is not None for matrix in drawn]) - (1 - 0.8**2)) < 0.03
    volumes = np.array([np.linalg.det(matrix) for matrix in drawn if matrix is not None]) ** (1 / 3)
    scaled = volumes[np.abs(volumes - 1) > 1e-9]
    assert abs(len(scaled) / 3000 - 0.2) < 0.03
    assert 0.7 <= scaled.min() < 0.72 and 1.38 < scaled.max() <= 1.4
    assert all(matrix is None for matrix in _drawn(50, p_rotation=0, p_scaling=0))


def test_crops_are_turned_in_millimetres_by_no_more_than_the_angle() -> None:
    for matrix in _drawn(200, p_rotation=1, p_scaling=0, degrees=20):
        in_mm = matrix * np.array(SPACING)[:, None] / np.array(SPACING)
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)
        angle = np.rad2deg(np.arccos((np.trace(in_mm) - 1) / 2))
        assert 0 < angle < 20 * 3


@pytest.mark.parametrize("patch", [(12, 15, 18), (9, 2, 10)])
def test_a_linear_image_is_resampled_exactly(patch: tuple[int, ...]) -> None:
    """Trilinear interpolation makes no error on it, and its value tells from where each voxel was taken."""
    slope = np.array([3.0, -2.0, 0.5])
    for matrix in _drawn(30, p_rotation=0.8, p_scaling=0.8):
        if matrix is None:
            continue
        size = source_size(matrix, patch)
        assert all((n - p) % 2 == 0 for n, p in zip(size, patch))
        source = np.tensordot(slope, _offsets(size), axes=1)
        expected = np.tensordot(slope, np.tensordot(matrix, _offsets(patch), axes=1), axes=1)
        result = resampled(torch.from_numpy(np.stack([source, 1 + 0 * source])), matrix, patch)
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-9)
        np.testing.assert_allclose(result[1].numpy(), 1, atol=1e-9)  # nothing lies outside of the box


def _offsets(size: tuple[int, ...]) -> Any:
    return np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))


def test_the_box_is_no_larger_than_needed() -> None:
    assert source_size(np.eye(3), (96, 95, 4)) == (98, 97, 6)
