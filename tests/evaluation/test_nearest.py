import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.evaluation.nearest import around, box_of, nearest_distances


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 1.7, 3.0)])
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_distance_transform_to_the_last_digits(seed, spacing):
    rng = np.random.default_rng(seed)
    source, target = rng.random((2, 11, 13, 9)) < rng.uniform(0.001, 0.3, (2, 1, 1, 1))
    target[3, 4, 5] = True
    expected = ndimage.distance_transform_edt(~target, sampling=spacing)[source]
    np.testing.assert_allclose(nearest_distances(source, target, spacing=spacing), expected, rtol=1e-14, atol=0)


def test_points_of_both_have_no_distance_and_none_is_fine():
    target = np.ones((2, 2, 2), dtype=bool)
    assert not nearest_distances(target, target, spacing=(1, 1, 1)).any()
    assert nearest_distances(~target, target, spacing=(1, 1, 1)).size == 0


def test_boxes():
    mask = np.zeros((10, 9, 8), dtype=bool)
    mask[2, 3, 4] = mask[5, 3, 7] = True
    assert box_of(mask) == (slice(2, 6), slice(3, 4), slice(4, 8))
    assert box_of(mask, 3) == (slice(0, 9), slice(0, 7), slice(1, 8))
    assert around([(slice(1, 2), slice(4, 6)), (slice(0, 1), slice(5, 9))]) == (slice(0, 2), slice(4, 9))
