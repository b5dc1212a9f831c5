import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.evaluation.components import components, dilated, joined_by, lesions_of, touching, without_small

STRUCTURE = ndimage.generate_binary_structure(3, 2)


def noise(seed, shape=(14, 15, 16), share=0.05):
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_dilation_equals_scipys(iterations):
    mask = noise(iterations, share=0.01)
    expected = ndimage.binary_dilation(mask, STRUCTURE, iterations=iterations)
    np.testing.assert_array_equal(dilated(mask, iterations), expected)
    assert not np.array_equal(dilated(mask, 0), expected)


def test_corners_connect_and_so_do_near_pieces():
    mask = np.zeros((12, 5, 5), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    mask[5, 1, 1] = True
    assert components(mask).max() == 2
    # Dilated once they reach 2 and 4, which do not touch; twice, 3 and 3.
    assert len(np.unique(lesions_of(mask, dilation=1).numbers)) == 2
    assert len(np.unique(lesions_of(mask, dilation=2).numbers)) == 1


def test_lists_and_volumes_say_the_same():
    mask = noise(3)
    lesions = lesions_of(mask, dilation=1)
    volume = lesions.volume()
    np.testing.assert_array_equal(volume > 0, mask)
    np.testing.assert_array_equal(lesions.volume(margin=2)[2:-2, 2:-2, 2:-2], volume)
    np.testing.assert_array_equal(lesions.zone_at(lesions.places), lesions.numbers)


def test_small_lesions_are_dropped_up_to_the_limit():
    mask = np.zeros((20, 5, 5), dtype=bool)
    mask[1:3, 1, 1] = mask[8:11, 1, 1] = mask[16:20, 1, 1] = True
    lesions = lesions_of(mask, dilation=1)
    assert np.unique(lesions.numbers, return_counts=True)[1].tolist() == [2, 3, 4]
    kept = without_small(lesions, 3)
    assert np.unique(kept.numbers, return_counts=True)[1].tolist() == [4]
    assert not kept.zone_at(np.flatnonzero(mask & (kept.volume() == 0))).any()


@pytest.mark.parametrize("seed", range(4))
def test_touching_equals_dilating_each_lesion(seed):
    first, second = noise(seed, share=0.02), noise(seed + 50, share=0.02)
    a, b = lesions_of(first & ~second, dilation=0), lesions_of(second & ~first, dilation=0)
    slow = set()
    for number in np.unique(a.numbers):
        near = b.volume()[ndimage.binary_dilation(a.volume() == number, STRUCTURE)]
        slow |= {(int(number), int(other)) for other in near if other}
    assert touching(a, b) == sorted(slow) and slow


def rods(*places):
    mask = np.zeros((40, 6, 6), dtype=bool)
    for start, stop in places:
        mask[start:stop, 2:4, 2:4] = True
    return mask


def numbers_of(lesions):
    """Number of the lesion at each start of a rod."""
    line = lesions.volume()[:, 2, 2]
    return [int(n) for i, n in enumerate(line) if n and (i == 0 or not line[i - 1])]


def test_lesions_that_touch_one_partner_become_one():
    lesions, bridge = lesions_of(rods((2, 6), (12, 16), (30, 34)), dilation=1), lesions_of(rods((6, 12)), dilation=1)
    a, b, c = numbers_of(joined_by(lesions, [bridge]))
    assert a == b != c


def test_one_pair_alone_changes_nothing_and_the_first_of_several_counts():
    lesions = lesions_of(rods((2, 6), (12, 16), (22, 26)), dilation=1)
    assert joined_by(lesions, [lesions_of(rods((6, 8)), dilation=1)]) is lesions
    # Two bridges in a row: the lesion in the middle goes with the first, the last with the second.
    bridges = lesions_of(rods((6, 12), (16, 22)), dilation=1)
    a, b, c = numbers_of(joined_by(lesions, [bridges]))
    assert a == b != c


def test_nothing_touches_nothing():
    empty = lesions_of(np.zeros((5, 5, 5), dtype=bool), dilation=3)
    assert touching(empty, empty) == [] and without_small(empty, 5).places.size == 0
    assert joined_by(empty, [empty]) is empty
