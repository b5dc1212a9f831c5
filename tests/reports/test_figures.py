"""The figures hold the data they were given."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bdfm_nnunet.reports.figures import (
    progress_figure,
    reconstruction_figure,
    save_figure,
    scores_figure,
    segmentation_figure,
)


@pytest.fixture
def crop():
    return np.random.default_rng(0).uniform(10, 20, (6, 8, 9))


def pictures(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_reconstruction_shows_the_central_slice_of_each(crop):
    figure = reconstruction_figure(crop, crop * 0, {"pixel": crop + 1, "frequency": crop - 2}, title="epoch 3")
    assert titles(figure) == [
        "original",
        "masked",
        "pixel",
        "error of pixel",
        "frequency",
        "error of frequency",
    ]
    original, masked, pixel, pixel_error, _, frequency_error = pictures(figure)[:6]
    np.testing.assert_allclose(original, crop[3])
    np.testing.assert_allclose(masked, 0)
    np.testing.assert_allclose(pixel, crop[3] + 1)
    np.testing.assert_allclose(pixel_error, 1)
    np.testing.assert_allclose(frequency_error, 2)
    assert figure.get_suptitle() == "epoch 3"


def test_what_has_no_mask_has_no_picture_of_it(crop):
    figure = reconstruction_figure(crop, None, {"corrupted": crop + 1})
    assert titles(figure) == ["original", "corrupted", "error of corrupted"]


def test_images_that_shall_not_be_the_original_have_no_errors() -> None:
    crop = np.zeros((4, 4, 4))
    figure = reconstruction_figure(crop, None, {"first view": crop + 1}, with_errors=False)
    assert [axes.get_title() for axes in figure.axes] == ["original", "first view"]


def test_reconstructions_share_the_windows_of_image_and_error(crop):
    figure = reconstruction_figure(crop, crop, {"a": crop + 1, "b": crop - 2})
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len({image.get_clim() for image in images[:3]}) == 1
    errors = [image.get_clim() for image in images if image.get_cmap().name == "magma"]
    assert errors == [(0.0, 2.0)] * 2


def test_index_and_mask_act(crop):
    mask = crop > 15
    figure = reconstruction_figure(crop, crop, {}, mask=mask, index=1)
    original, masked = pictures(figure)
    np.testing.assert_allclose(original, crop[1])
    assert (np.ma.getmaskarray(masked) == mask[1]).all()


def test_constant_crop_and_perfect_reconstruction_draw_without_warnings(crop, recwarn, tmp_path):
    flat = np.ones((4, 5, 6))
    save_figure(reconstruction_figure(flat, flat, {"pixel": flat}), tmp_path / "a.png")
    assert not recwarn.list


def test_curves_hold_every_value_and_gaps():
    values = [1.0, float("nan"), 0.5]
    figure = progress_figure({"loss": {"train": values, "validation": [2.0, 1.0]}}, title="run", log=["loss"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values)
    assert [line.get_label() for line in axes.lines] == ["train", "validation"]
    assert (axes.get_ylabel(), axes.get_yscale(), figure.get_suptitle()) == ("loss", "log", "run")
    assert progress_figure({"loss": {"train": values}}).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_progress_has_a_panel_per_entry(count, tmp_path):
    panels = {f"panel {i}": {"a": [1.0, 2.0], "b": [2.0]} for i in range(count)}
    figure = progress_figure(panels, title="t", log=("panel 0",))
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_ylabel() for axes in drawn] == list(panels)
    assert [axes.get_yscale() for axes in drawn] == ["log"] + ["linear"] * (count - 1)
    save_figure(figure, tmp_path / "progress.png")
    assert (tmp_path / "progress.png").stat().st_size > 1000


def test_empty_curves_draw(tmp_path):
    save_figure(progress_figure({"loss": {"train": []}}), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_segmentations_show_the_slice_of_the_reference_with_the_largest_area():
    image = np.full((5, 20, 20), 100.0)
    reference, other = np.zeros_like(image, dtype=int), np.zeros_like(image, dtype=int)
    reference[2, 4:6, 4:6] = 1
    reference[4, 4:8, 4:8] = 3
    other[4, 0, 0] = 2
    figure = segmentation_figure(
        [("case 1", image, {"reference": reference, "scratch": other})],
        label_names={1: "necrosis", 2: "oedema", 3: "enhancing"},
        title="t",
    )
    plain, shown, scratch = pictures(figure)
    assert plain.shape == (20, 20, 3) and np.ptp(plain) == 0
    changed = np.abs(shown - plain).max(axis=-1) > 0
    assert (changed == (reference[4] > 0)).all()
    assert np.abs(shown[5, 5] - np.array(to_rgb("#D62828"))).max() < 0.35
    assert (np.abs(scratch - plain).max(axis=-1) > 0).sum() == 1
    assert titles(figure) == ["image", "reference", "scratch"] and figure.axes[0].get_ylabel() == "case 1"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["necrosis", "oedema", "enhancing"]


def test_segmentations_are_cropped_to_the_head():
    image = np.zeros((3, 40, 50))
    image[:, 10:20, 30:35] = 1.0
    empty = np.zeros_like(image, dtype=int)
    figure = segmentation_figure([("a", image, {"reference": empty})], label_names={1: "lesion"})
    assert pictures(figure)[0].shape == (16, 11, 3)


def test_segmentation_of_an_empty_image_draws(tmp_path, recwarn):
    image = np.zeros((3, 10, 10))
    figure = segmentation_figure([("a", image, {"reference": image.astype(int)})], label_names={1: "lesion"})
    save_figure(figure, tmp_path / "a.png")
    assert not recwarn.list


def result_of(scores):
    summary = {"mean": float(np.mean(scores)), "low": min(scores), "high": max(scores)}
    regions = {"whole_tumor": {"dice": summary, "hd95_mm": {"mean": 5.0, "low": 4.0, "high": 6.0}}}
    cases = [{"case": str(i), "regions": {"whole_tumor": {"dice": s, "hd95_mm": 5.0}}} for i, s in enumerate(scores)]
    return {"summary": regions, "cases": cases}


def test_scores_have_a_bar_an_interval_and_a_dot_per_case():
    figure = scores_figure({"scratch": result_of([0.2, 0.4]), "fine-tuned": result_of([0.7, 0.9])}, title="t")
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.3, 0.8])
    dots = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.2, 0.4], [0.7, 0.9]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["scratch", "fine-tuned"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["whole tumor"]
    assert axes.get_ylim() == (0, 1.02) and axes.get_title() == "t"


def test_measure_and_label_of_scores_act():
    axes = scores_figure({"scratch": result_of([0.5])}, measure="hd95_mm", ylabel="HD95 (mm)").axes[0]
    assert axes.patches[0].get_height() == 5.0
    assert axes.get_ylabel() == "HD95 (mm)" and axes.get_ylim()[1] > 5


def test_save_writes_the_format_of_the_ending_at_the_asked_size(crop, tmp_path):
    figure = reconstruction_figure(crop, crop, {})
    for dpi in (50, 100):
        save_figure(figure, tmp_path / f"{dpi}.png", dpi=dpi)
    heights = [matplotlib.image.imread(tmp_path / f"{dpi}.png").shape[0] for dpi in (50, 100)]
    assert heights[1] == 2 * heights[0]
    save_figure(figure, tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_neither_pyplot_nor_torch_is_imported():
    code = (
        "import sys, bdfm_nnunet.reports.figures\n"
        "print(sorted({'matplotlib.pyplot', 'torch', 'nnunetv2'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
