import itertools
import math

import pytest

from bdfm_nnunet.plans.token_grid import fits_grid, layouts_for, token_patch_for
from tests.plans.token_grids import needs_no_padding

BRATS = ((1.0, 1.0, 1.0), (140, 171, 136))
THICK_SLICES = ((6.5, 0.78, 0.78), (25, 256, 256))
TINY = ((1.0, 1.0, 1.0), (40, 40, 40))
HALF_COARSE = ((3.0, 1.0, 1.0), (50, 200, 200))
FLAT = ((1.0, 1.0, 1.0), (10, 30, 3))
TWO_AXES = ((1.0, 1.0), (200, 180))
DATA = pytest.mark.parametrize("data", [BRATS, THICK_SLICES, TINY, HALF_COARSE, FLAT, TWO_AXES])


@DATA
def test_no_stage_of_any_layout_needs_padding(data: tuple[tuple[float, ...], tuple[int, ...]]) -> None:
    for layout in layouts_for(*data):
        assert needs_no_padding(layout.patch_size, layout.strides, layout.window), layout
        assert all(4 <= window <= 8 for window in layout.window)
        assert 1 <= len(layout.merges) + 1 <= 4
        assert all(max(stride) == 2 for stride in layout.merges)  # no stage without any merging


@DATA
def test_each_layout_lies_inside_the_next(data: tuple[tuple[float, ...], tuple[int, ...]]) -> None:
    layouts = layouts_for(*data)
    for small, large in itertools.pairwise(layouts):
        assert all(a <= b for a, b in zip(small.patch_size, large.patch_size))
        assert small.voxels < large.voxels
        assert large.voxels / small.voxels <= 2


@DATA
def test_patches_stay_inside_the_median_image_but_for_whole_tokens(
    data: tuple[tuple[float, ...], tuple[int, ...]],
) -> None:
    _, median = data
    for layout in layouts_for(*data):
        for size, patch, whole in zip(layout.patch_size, layout.token_patch, median):
            assert size <= math.ceil(whole / patch) * patch
            assert size <= whole or whole < 4 * patch


def test_brats_ends_at_four_stages_with_the_largest_window_that_divides() -> None:
    layouts = {layout.patch_size: layout for layout in layouts_for(*BRATS)}
    whole = layouts[128, 128, 128]
    assert whole.merges == ((2, 2, 2),) * 3
    assert whole.window == (8, 8, 8)
    assert layouts[96, 96, 96].window == (6, 6, 6)
    assert max(layouts) == (128, 160, 128)
    assert (112, 112, 112) not in layouts  # 28 tokens can be halved twice only


def test_thick_slices_have_thin_tokens_and_are_merged_later() -> None:
    last = layouts_for(*THICK_SLICES)[-1]
    assert last.token_patch == (1, 4, 4)
    assert last.merges == ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert last.patch_size == (24, 256, 256)


def test_patches_are_cubes_in_space_until_they_reach_the_image() -> None:
    for layout in layouts_for(*HALF_COARSE):
        extents = [size * spacing for size, spacing in zip(layout.patch_size, HALF_COARSE[0])]
        if layout.patch_size[0] < 48 and layout.voxels > 20**3:
            assert max(extents) / min(extents) < 2


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((1, 1, 1), (4, 4, 4)), ((1.9, 1, 1), (4, 4, 4)), ((2, 1, 1), (2, 4, 4)), ((4, 1, 1), (1, 4, 4))],
)
def test_token_patch(spacing: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert token_patch_for(spacing) == expected


def test_fits_grid() -> None:
    steps = [1, 4, 2, 2, 2]
    assert [size for size in range(1, 200) if fits_grid(size, steps, 6)] == [96, 192]
    assert [size for size in range(1, 200) if fits_grid(size, steps, 8)] == [32, 64, 128]
    assert [size for size in range(1, 100) if fits_grid(size, steps, None)] == [32, 64, 96]
    assert fits_grid(24, [1, 4], 6)
    assert not fits_grid(36, [1, 4], 6)
