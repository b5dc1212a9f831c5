"""Distances between weighted surfaces against numbers of the package that defines them, and by hand."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation.surfaces import surfel_areas, surfel_hausdorff
from tests.evaluation.golden import CASES, GOLDEN
from tests.evaluation.shapes import pair


@pytest.mark.parametrize("table", GOLDEN["areas"], ids=lambda table: str(table["spacing"]))
def test_areas_of_all_codes_equal_the_published_table(table):
    kernel = np.array(GOLDEN["kernel"]).ravel()
    ours = surfel_areas(tuple(table["spacing"]))
    for code, expected in enumerate(table["areas"]):
        inside = (kernel & code) > 0
        assert ours[int((inside << np.arange(8)).sum())] == pytest.approx(expected, rel=1e-12), code


@pytest.mark.parametrize("seed", CASES)
def test_hd95_equals_that_of_the_package(seed):
    reference, prediction, spacing = pair(seed)
    assert [int(reference.sum()), int(prediction.sum())] == CASES[seed]["voxels"]
    ours = surfel_hausdorff(reference, prediction, spacing=spacing)
    assert ours == pytest.approx(CASES[seed]["surfel_hd95"], rel=1e-9)


def test_shifted_cubes_by_hand():
    first, second = np.zeros((2, 20, 20, 20), dtype=bool)
    first[4:12, 4:12, 4:12] = second[6:14, 4:12, 4:12] = True
    assert surfel_hausdorff(first, second, spacing=(3, 1, 1), percent=100) == 6
    assert surfel_hausdorff(first, first, spacing=(3, 1, 1)) == 0
    # At every percentile the distance within which that share of the area lies: half of it is shared.
    assert surfel_hausdorff(first, second, spacing=(3, 1, 1), percent=30) == 0
    assert 0 < surfel_hausdorff(first, second, spacing=(3, 1, 1), percent=85) <= 6


def test_masks_at_the_border_have_a_surface_there():
    full = np.ones((3, 4, 5), dtype=bool)
    hole = full.copy()
    hole[:, :, 4] = False
    assert surfel_hausdorff(full, hole, spacing=(1, 1, 2), percent=100) == 2
