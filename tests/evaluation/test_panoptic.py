"""Panoptic scores against panoptica's and by hand."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation import score_case
from bdfm_nnunet.evaluation.voxelwise import surface_dice, surface_distances
from tests.evaluation.golden import CASES
from tests.evaluation.shapes import pair
from tests.evaluation.test_lesionwise import FALSE, MISSED, NONE, ONE_OF_TWO, PERFECT, WITH_STRAY, scores, volume

NAMES = {"sq_hd95": "sq_hd95_mm", "global_bin_dsc": "global_dice"}


@pytest.mark.parametrize("seed", CASES)
def test_equals_panoptica(seed):
    reference, prediction, spacing = pair(seed)
    found = score_case(
        reference.astype(int), prediction.astype(int), spacing=spacing, regions={"lesion": (1,)}, release="atlas-r2",
        metrics="panoptic-2026",
    )["lesion"]  # fmt: skip
    for name, expected in CASES[seed]["panoptic"].items():
        # No match: panoptica's distance is infinite.
        assert found[NAMES.get(name, name)] == pytest.approx(373 if expected is None else expected, rel=1e-9), name


@pytest.mark.parametrize("seed", CASES)
def test_surface_dice_equals_panopticas(seed):
    reference, prediction, spacing = pair(seed)
    distances = surface_distances(reference, prediction, spacing=spacing)
    for tolerance, expected in CASES[seed]["nsd"].items():
        assert surface_dice(distances, float(tolerance)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (FALSE, {"sq_dsc": 0, "sq_hd95_mm": 373, "rq": 0, "global_dice": 0}),
        (MISSED, {"sq_dsc": 0, "sq_hd95_mm": 373, "rq": 0, "global_hd95_mm": 373}),
        (PERFECT, {"sq_dsc": 1, "sq_hd95_mm": 0, "rq": 1, "pq_dsc": 1, "sq_nsd": 1}),
        (WITH_STRAY, {"sq_dsc": 1, "rq": 2 / 3, "pq_dsc": 2 / 3, "fp": 1, "global_dice": 2000 / 2001}),
        (ONE_OF_TWO, {"sq_dsc": 1, "rq": 2 / 3, "global_dice": 2 / 3, "fn": 1}),
    ],
)
def test_values_measured_with_the_organisers_code(case, expected):
    found = scores(*case, "panoptic-2026", "GLI")
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_empty_on_both_sides_is_not_defined():
    found = scores(*NONE, "panoptic-2026", "MET")
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert {"sq_dsc", "sq_hd95_mm", "rq", "pq_dsc", "global_dice", "large_sq_dsc"} <= undefined
    assert {found[name] for name in ("tp", "fp", "fn", "small_tp", "small_fn")} == {0}


def test_pairs_are_chosen_for_all_together():
    """Taking the best pair first would leave the second lesion alone."""
    reference = volume((slice(10, 20), 5, 5), (slice(21, 25), 5, 5))
    prediction = volume((slice(5, 13), 5, 5), (slice(14, 25), 5, 5))
    found = scores(reference, prediction, "panoptic-2026", "GLI")
    assert (found["tp"], found["rq"]) == (2, 1)
    assert found["sq_dsc"] == pytest.approx((2 * 3 / 18 + 2 * 4 / 15) / 2)


def test_metastases_by_size():
    small, large = (slice(30, 33), slice(5, 8), slice(5, 8)), (slice(5, 9), slice(5, 9), slice(5, 9))
    reference = volume(large, small, (slice(50, 52), 5, 5))
    found = scores(reference, volume(large, (slice(50, 52), 5, slice(5, 30))), "panoptic-2026", "MET")
    # Both small ones are missed: one has no prediction, the other's Dice is 4 / 52.
    assert (found["tp"], found["fn"], found["small_tp"], found["small_fn"]) == (2, 1, 0, 2)
    assert (found["large_sq_dsc"], found["large_sq_hd95_mm"]) == (1, 0)
    assert found["sq_dsc"] == pytest.approx((1 + 4 / 52) / 2)
    assert scores(reference, reference, "panoptic-2026", "MET")["small_tp"] == 2
    assert "large_sq_dsc" not in scores(reference, reference, "panoptic-2026", "GLI")
    missed = scores(reference, volume(small), "panoptic-2026", "MET")
    assert (missed["large_sq_dsc"], missed["large_sq_hd95_mm"], missed["small_tp"]) == (0, 373, 1)
