"""The voxels that count where nobody has drawn labels."""

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.writing.foreground import background_is_zero, foreground_mask, nonzero_mask

SHAPE = (12, 11, 10)


def _head() -> np.ndarray:
    head = np.zeros(SHAPE, bool)
    head[2:9, 2:9, 2:8] = True
    return head


def test_union_of_what_is_not_zero() -> None:
    first, second = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.float32)
    first[3, 4, 5], second[6, 7, 8] = -2, 0.1
    mask = foreground_mask([first, second])
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [(3, 4, 5), (6, 7, 8)]


@pytest.mark.parametrize("air", [5, -1000])
@pytest.mark.parametrize("type_", [np.int16, np.float64])
def test_scans_with_another_background(air: int, type_: type) -> None:
    """Otsu's threshold of the first one: its largest piece, without holes; what is bright elsewhere does not count."""
    image = np.where(_head(), 900, air).astype(type_)
    image[0, 0, 0], image[5, 5, 5] = 950, air
    other = np.full(SHAPE, 7, np.int16)
    np.testing.assert_array_equal(foreground_mask([image, other]), _head())


@pytest.mark.parametrize(("filled", "zero"), [(0.89, True), (0.91, False)])
def test_share_that_tells(filled: float, zero: bool) -> None:
    values = np.zeros(1000, np.uint8)
    values[: int(1000 * filled)] = 1
    assert background_is_zero(nonzero_mask([values.reshape(10, 10, 10)])) == zero
