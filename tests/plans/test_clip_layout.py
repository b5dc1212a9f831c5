"""Image size and tokens of clips."""

import math

import pytest

from bdfm_nnunet.plans.clip_layout import FEWEST_LAST, MOST_PADDING, clip_layout

SHAPES = [
    ((96, 96, 96), 2.0), ((91, 109, 91), 2.0), ((64, 64, 36), 3.0), ((12, 12, 12), 2.0), ((7, 9, 30), 4.0),
    ((160, 192, 160), 1.0), ((1, 2, 3), 2.0), ((17, 21, 3), 20.0), ((38, 47, 44), 2.4),
]  # fmt: skip


def test_the_published_grid_gives_the_published_sizes() -> None:
    layout = clip_layout((96, 96, 96), (2.0, 2.0, 2.0))
    assert layout.image_size == (96, 96, 96)
    assert layout.strides == [[1, 1, 1, 1], [6, 6, 6, 1], [2, 2, 2, 1], [2, 2, 2, 1], [2, 2, 2, 1]]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_whole_volumes_fit_with_little_padding(shape: tuple[int, ...], spacing: float) -> None:
    layout = clip_layout(shape, (spacing,) * 3)
    for axis, size in enumerate(shape):
        steps = [stride[axis] for stride in layout.strides]
        image, token = layout.image_size[axis], layout.token[axis]
        assert image % math.prod(steps) == 0
        assert size <= image <= MOST_PADDING * token * math.ceil(size / token)
        if math.prod(steps[2:]) > 1:
            assert image // math.prod(steps) >= FEWEST_LAST
        assert 1 <= token <= max(12 / spacing * 1.5, 1)


def test_axes_merge_as_often_as_they_can() -> None:
    assert clip_layout((96, 96, 12), (2.0, 2.0, 2.0)).merges == ((2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert clip_layout((6, 6, 6), (2.0, 2.0, 2.0)).merges == ()
