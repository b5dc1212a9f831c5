import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.data.phantom import Grid
from bdfm_nnunet.synthesis.drawn_images import Contrast, draw_contrast, draw_noise, draw_signal, draw_slices, resampled
from bdfm_nnunet.synthesis.tissue_tables import LESION_PARTS, modality_levels
from tests.synthesis.tiny_heads import LABELS, tiny_head

TISSUES = ["", "white", "white", "grey", "plaque", *LESION_PARTS]


def test_labels_of_a_tissue_are_nearly_alike_and_named_contrasts_keep_their_order() -> None:
    levels = modality_levels("t1")
    for seed in range(20):
        means = draw_contrast(np.random.default_rng(seed), TISSUES, levels).means
        assert means[0] == 0
        assert means[1] == pytest.approx(means[2], rel=0.1)
        assert means[1] != means[2]
        assert means[1] > means[3] > means[TISSUES.index("cavity")]


def test_free_contrasts_and_unknown_tissues_vary() -> None:
    free = np.stack([draw_contrast(np.random.default_rng(seed), TISSUES).means for seed in range(200)])
    assert 0.4 < (free[:, 1] > free[:, 3]).mean() < 0.6
    named = [draw_contrast(np.random.default_rng(seed), TISSUES, modality_levels("t2")).means[4] for seed in range(200)]
    assert np.std(named) > 0.3


def test_the_signal_has_the_means_and_spreads_of_the_labels() -> None:
    head = tiny_head()
    contrast = draw_contrast(np.random.default_rng(0), [f"label {label}" * bool(label) for label in LABELS])
    flat = draw_signal(np.random.default_rng(1), head.codes, head.grid, contrast, bias=0.0)
    for code in (LABELS.index(2), LABELS.index(3)):
        inside = ndimage.binary_erosion(head.codes == code)
        assert flat[inside].mean() == pytest.approx(contrast.means[code], rel=0.1)


def test_the_bias_field_is_smooth_and_as_strong_as_asked() -> None:
    codes = np.ones((20, 20, 20), np.uint8)
    grid, contrast = Grid((20, 20, 20), (12.0, 12.0, 12.0)), Contrast(np.ones(9, np.float32), np.zeros(9, np.float32))
    fields = [np.log(draw_signal(np.random.default_rng(seed), codes, grid, contrast, bias=0.3)) for seed in range(8)]
    assert 0.05 < np.std(fields) < 0.3
    assert np.abs(np.diff(fields, axis=1)).max() < 0.1
    none = draw_signal(np.random.default_rng(0), codes, grid, contrast, bias=0.0)
    assert none == pytest.approx(1, abs=1e-5)


def test_parts_of_lesions_are_mottled() -> None:
    codes = np.full((30, 30, 30), 5, np.uint8)
    grid = Grid((30, 30, 30), (1.0, 1.0, 1.0))
    contrast = draw_contrast(np.random.default_rng(0), TISSUES, modality_levels("t1"))
    sick = draw_signal(np.random.default_rng(1), codes, grid, contrast, bias=0.0)
    well = draw_signal(np.random.default_rng(1), codes - 4, grid, contrast, bias=0.0)
    smooth = [ndimage.gaussian_filter(image / image.mean(), 2).std() for image in (sick, well)]
    assert smooth[0] > 3 * smooth[1]


def test_half_of_the_images_are_thick_slices() -> None:
    grid = Grid((16, 16, 16), (1.0, 1.0, 1.0))
    image = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    drawn = [draw_slices(np.random.default_rng(seed), image, grid, thickest=4.0) for seed in range(40)]
    changed = [each for each in drawn if not np.array_equal(each, image)]
    assert 10 <= len(changed) <= 30
    for each in changed:
        rough = [np.abs(np.diff(each, axis=axis)).mean() for axis in range(3)]
        assert min(rough) < 0.8 * max(rough)
    assert draw_slices(np.random.default_rng(0), image, grid, thickest=0.0) is image


def test_noise_is_that_of_magnitudes() -> None:
    empty = np.zeros((20, 20, 20), np.float32)
    noise = draw_noise(np.random.default_rng(0), empty, largest=0.1)
    assert noise.min() >= 0
    assert 0.01 < noise.mean() / np.sqrt(np.pi / 2) < 0.1
    assert np.array_equal(draw_noise(np.random.default_rng(0), empty + 1, largest=0.0), empty + 1)


def test_resampling_keeps_places() -> None:
    grid, target = Grid((20, 20, 20), (1.0, 1.0, 1.0)), Grid((7, 8, 9), (3.0, 2.5, 2.0))
    x, y, z = np.meshgrid(*grid.axes(), indexing="ij")
    wanted = sum(factor * axis for factor, axis in zip((1, 2, 3), np.meshgrid(*target.axes(), indexing="ij")))
    found = resampled(x + 2 * y + 3 * z, grid, target)
    assert np.allclose(found[1:-1, 1:-1, 1:-1], wanted[1:-1, 1:-1, 1:-1], atol=1e-4)
    assert np.array_equal(resampled(x, grid, grid), x)
