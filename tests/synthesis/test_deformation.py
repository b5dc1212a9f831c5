import numpy as np
from scipy import ndimage

from bdfm_nnunet.data.phantom import Grid
from bdfm_nnunet.synthesis.deformation import deformed, draw_deformation, sampled
from tests.synthesis.tiny_heads import tiny_head


def test_stronger_warps_move_more_and_none_moves_nothing() -> None:
    head = tiny_head()
    moved = []
    for warp in (0.0, 1.0, 3.0):
        new = deformed(head.codes, head.grid, draw_deformation(np.random.default_rng(3), head.grid, warp=warp))
        moved.append(float((new != head.codes).mean()))
    assert moved[0] == 0 < moved[1] < moved[2] < 0.5


def test_a_warp_does_not_fold() -> None:
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0))
    deformation = draw_deformation(np.random.default_rng(0), grid, warp=10.0)
    ramp = np.broadcast_to(np.arange(40)[:, None, None], grid.shape).astype(np.uint8)
    along = deformed(ramp, grid, deformation).astype(int)
    inner = along[8:-8, 8:-8, 8:-8]
    assert (np.diff(inner, axis=0) >= 0).all()


def test_labels_are_those_of_the_nearest_voxel() -> None:
    codes = np.random.default_rng(0).integers(0, 9, (6, 7, 8)).astype(np.uint8)
    grid = Grid((6, 7, 8), (1.0, 2.0, 0.5))
    points = np.stack(np.meshgrid(*grid.axes(), indexing="ij")).astype(np.float32)
    shifted = sampled(codes, grid, points + np.array([1.0, -2.0, 0.5], np.float32)[:, None, None, None])
    assert np.array_equal(shifted[:-1, 1:, :-1], codes[1:, :-1, 1:])
    assert not shifted[-1].any()
    assert not shifted[:, 0].any()


def test_the_head_stays_one_piece() -> None:
    head = tiny_head()
    new = deformed(head.codes, head.grid, draw_deformation(np.random.default_rng(1), head.grid, warp=3.0))
    assert ndimage.label(new > 0)[1] == 1
    assert set(np.unique(new)) == set(np.unique(head.codes))
