"""Resampling of runs: through the affine in space, in equal steps in time."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from bdfm_nnunet.dataset_conversion.writing.run_lattice import (
    Lattice,
    SpaceResampler,
    along_axis,
    own_lattice,
    resampled_in_time,
    steps_of_time,
    template_lattice,
)
from bdfm_nnunet.images.grids import Grid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid_of(affine: np.ndarray, shape: tuple[int, ...]) -> Grid:
    """The grid of an affine in RAS."""
    affine = LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Grid(shape, tuple(spacing), tuple(affine[:3, 3]), tuple((affine[:3, :3] / spacing).ravel()))


FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
LIN2009 = np.array([[2.0, 0, 0, -96], [0, 2, 0, -132], [0, 0, 2, -78], [0, 0, 0, 1]])


def test_grids_of_the_template_lie_on_its_lattice() -> None:
    """FSL's and fMRIPrep's grids of 2 mm are cropped and padded, voxel for voxel, to the same box."""
    lattice = template_lattice(2.0, 96)
    assert lattice.origin == (-96, -114, -78)
    for affine, shape in ((FSL, (91, 109, 91)), (LIN2009, (97, 115, 97))):
        assert own_lattice(grid_of(affine, shape), 2.0, 96) == lattice
    values = np.random.default_rng(0).normal(size=(91, 109, 91, 1)).astype(np.float32)
    found = SpaceResampler(grid_of(FSL, (91, 109, 91)), lattice)(values)
    np.testing.assert_array_equal(found[3:94, :, 3:94], values[::-1, 6:102])
    assert not found[:3].any() and not found[94:].any() and not found[..., :3, :].any()


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((91, 109, 91), 0, (91, 109, 91)), ((4, 5, 8), 6, (6, 6, 6)), ((4, 5, 9), 5, (5, 5, 5))],
)
def test_own_box_is_the_middle_of_the_field_of_view(
    shape: tuple[int, int, int], size: int, expected: tuple[int, ...]
) -> None:
    lattice = own_lattice(grid_of(np.diag([2.0, 2, 2, 1]), shape), 2.0, size)
    assert lattice.shape == expected
    middle = np.array(lattice.origin) + (np.array(lattice.shape) - 1)
    assert np.abs(middle - (np.array(shape) - 1)).max() <= 1  # half a voxel where one is odd and the other even
    assert (np.array(lattice.origin) % 2 == 0).all()


def _turned(degrees: float, scale: float = 3.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    affine = np.diag([-scale, scale, scale + 1, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine
    affine[:3, 3] = [14, -11, -17]
    return affine


AFFINES = {
    "straight": _turned(0), "turned a little": _turned(0.05), "turned": _turned(20), "a quarter": _turned(90),
    "axes swapped": _turned(0)[:, [2, 0, 1, 3]],
}  # fmt: skip


@pytest.mark.parametrize("kind", AFFINES)
def test_any_affine_against_an_independent_interpolation(kind: str) -> None:
    shape, affine = (9, 8, 10), AFFINES[kind]
    values = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    lattice = Lattice((-11.0, -13.0, -14.0), 2.0, (13, 12, 14))
    resampler = SpaceResampler(grid_of(affine, shape), lattice)
    assert resampler.parallel == (kind != "turned")
    found = resampler(values)
    where = np.indices(lattice.shape).reshape(3, -1).T * 2.0 + lattice.origin
    index = (np.linalg.inv(affine) @ np.c_[where, np.ones(len(where))].T)[:3].T
    inside = ((index > -0.5) & (index < np.array(shape) - 0.5)).all(axis=1)
    at = np.clip(index, 0, np.array(shape) - 1)
    expected = RegularGridInterpolator([np.arange(n) for n in shape], values)(at)
    expected[~inside] = 0
    loose = kind == "turned a little"  # counted as straight
    edge = np.abs(np.abs(index + 0.5 - np.round(index + 0.5))).min(axis=1) < 0.05
    compared = ~edge if loose else np.ones(len(edge), bool)
    np.testing.assert_allclose(
        found.reshape(-1, 2)[compared], expected[compared], atol=0.15 if loose else 2e-3, err_msg=kind
    )
    np.testing.assert_array_equal(resampler.inside.ravel()[compared], inside[compared])
    assert inside.any() and not inside.all()


def test_a_flipped_file_gives_the_same_frames() -> None:
    values = np.random.default_rng(0).normal(size=(8, 9, 7, 3)).astype(np.float32)
    affine = np.diag([3.0, 3, 3, 1.0])
    flipped = affine.copy()
    flipped[0, 0], flipped[0, 3] = -3, 3 * 7
    swapped = affine[:, [1, 0, 2, 3]]
    lattice = own_lattice(grid_of(affine, (8, 9, 7)), 2.0, 12)
    expected = SpaceResampler(grid_of(affine, (8, 9, 7)), lattice)(values)
    for other, turned in ((flipped, values[::-1]), (swapped, values.transpose(1, 0, 2, 3))):
        grid = grid_of(other, turned.shape[:3])
        assert own_lattice(grid, 2.0, 12) == lattice
        np.testing.assert_allclose(SpaceResampler(grid, lattice)(turned), expected, atol=1e-5)


def test_along_an_axis() -> None:
    values = np.array([[0.0, 10, 30]], dtype=np.float32)
    found = along_axis(values, 1, np.array([-0.6, -0.5, 0, 0.25, 1.0004, 1.5, 2.4, 2.6]))
    np.testing.assert_allclose(found, [[0, 0, 0, 2.5, 10, 20, 30, 0]], atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(("frames", "tr", "step"), [(14, 1.6, 0.8), (1200, 0.72, 0.8), (9, 0.8, 0.8), (30, 0.8, 2.0)])
def test_steps_keep_the_length_of_the_run(frames: int, tr: float, step: float) -> None:
    positions = steps_of_time(frames, tr, step)
    assert abs(len(positions) * step - frames * tr) <= step / 2
    assert positions[0] >= 0 and positions[-1] <= frames - 1
    inner = positions[1:-1]
    np.testing.assert_allclose(np.diff(inner), step / tr)
    np.testing.assert_allclose((inner[0] + 0.5) * tr, 1.5 * step)  # the middle of the second stored frame, in seconds


@pytest.mark.parametrize("block", [1, 3, 4, 50])
@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize(("tr", "step"), [(1.6, 0.8), (0.72, 0.8), (0.8, 2.0), (0.8, 0.8), (0.8, 9.0)])
def test_time_in_blocks_is_time_at_once(block: int, count: int, tr: float, step: float) -> None:
    values = np.random.default_rng(0).normal(size=(2, 1, 1, 23)).astype(np.float32)
    read: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, 23, block):
            read.append(start)
            yield values[..., start : start + block]

    positions = steps_of_time(23, tr, step)
    found = list(resampled_in_time(blocks(), positions, count))
    assert all(each.shape[3] == count for each in found[:-1])
    expected = [np.interp(positions, np.arange(23), line) for line in values[:, 0, 0]]
    np.testing.assert_allclose(np.concatenate(found, axis=3)[:, 0, 0], expected, atol=1e-5)
    assert read == list(range(0, 23, block))  # to the end of the file
