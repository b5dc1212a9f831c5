"""Whole-region metrics against brute force, closed forms and measured golden values."""

import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.evaluation.voxelwise import dice, hd95, surface, surface_distances


def random_mask(rng, shape, threshold=0.3):
    return ndimage.gaussian_filter(rng.normal(size=shape), 1.5) > threshold * 0.3


def slow_surface(mask):
    """Voxel by voxel: inside, with one of six neighbours outside."""
    points = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                other = index.copy()
                other[axis] += step
                inside = (other >= 0).all() and (other < mask.shape).all()
                if not inside or not mask[tuple(other)]:
                    points.append(tuple(index))
    return sorted(set(points))


def slow_distances(source, target, spacing):
    """All pairs of surface voxels."""
    a, b = (np.array(slow_surface(mask)) * np.array(spacing) for mask in (source, target))
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(axis=1)


def slow_percentile(values, q):
    """Linear interpolation between order statistics, by hand."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def cube(start=5, stop=15, size=60):
    mask = np.zeros((size,) * 3, dtype=bool)
    mask[(slice(start, stop),) * 3] = True
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_dice_equals_counting(seed):
    rng = np.random.default_rng(seed)
    a, b = random_mask(rng, (9, 10, 11)), random_mask(rng, (9, 10, 11))
    both = sum(bool(x and y) for x, y in zip(a.flat, b.flat))
    assert dice(a, b) == pytest.approx(2 * both / (list(a.flat).count(True) + list(b.flat).count(True)))


def test_surface_equals_neighbour_loop_and_counts_the_border():
    mask = random_mask(np.random.default_rng(0), (8, 9, 10), threshold=-0.5)
    assert [tuple(i) for i in np.argwhere(surface(mask))] == slow_surface(mask)
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.3)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_and_hd95_equal_brute_force(seed, spacing):
    rng = np.random.default_rng(seed)
    a, b = random_mask(rng, (12, 11, 13)), random_mask(rng, (12, 11, 13), threshold=0.5)
    there, back = surface_distances(a, b, spacing=spacing)
    slow_there, slow_back = slow_distances(a, b, spacing), slow_distances(b, a, spacing)
    np.testing.assert_allclose(np.sort(there), np.sort(slow_there))
    np.testing.assert_allclose(np.sort(back), np.sort(slow_back))
    expected = max(slow_percentile(slow_there, 95), slow_percentile(slow_back, 95))
    assert hd95(a, b, spacing=spacing) == pytest.approx(expected)


def test_hd95_is_the_larger_direction_not_the_pooled_percentile():
    big, small = cube(5, 25), cube(5, 6)
    one_way = slow_distances(big, small, (1, 1, 1))
    pooled = np.percentile(np.concatenate([one_way, slow_distances(small, big, (1, 1, 1))]), 95)
    assert hd95(big, small, spacing=(1, 1, 1)) == pytest.approx(np.percentile(one_way, 95))
    assert hd95(big, small, spacing=(1, 1, 1)) == hd95(small, big, spacing=(1, 1, 1)) != pytest.approx(pooled)


def test_shifted_cube_follows_the_spacing():
    a, b = cube(), np.roll(cube(), 4, axis=0)
    assert hd95(a, b, spacing=(1, 1, 1)) == pytest.approx(4)
    assert hd95(a, b, spacing=(2.5, 1, 1)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        (np.zeros((60, 60, 60), bool), np.zeros((60, 60, 60), bool), (1, 0)),
        (np.zeros((60, 60, 60), bool), cube(), (0, 374)),
        (cube(), np.zeros((60, 60, 60), bool), (0, 374)),
        (cube(), cube(), (1, 0)),
        (cube(5, 8), np.zeros((60, 60, 60), bool), (0, 374)),
    ],
    ids=["both empty", "false positive only", "false negative only", "perfect", "27 mm3 missed"],
)
def test_golden_values_of_the_organisers_whole_region_scores(reference, prediction, expected):
    assert (dice(reference, prediction), hd95(reference, prediction, spacing=(1, 1, 1))) == expected


def test_missing_distance_acts_only_where_one_side_is_empty():
    empty = np.zeros((60, 60, 60), bool)
    assert hd95(cube(), empty, spacing=(1, 1, 1), missing_distance=50.0) == 50
    assert hd95(empty, empty, spacing=(1, 1, 1), missing_distance=50.0) == 0
    assert hd95(cube(), cube(), spacing=(1, 1, 1), missing_distance=50.0) == 0


def test_one_stray_voxel_does_not_move_hd95():
    prediction = cube()
    prediction[40, 40, 40] = True
    assert dice(cube(), prediction) == pytest.approx(2000 / 2001)
    assert hd95(cube(), prediction, spacing=(1, 1, 1)) == 0
