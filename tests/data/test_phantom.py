"""The made-up subjects: replay, anatomy, contrasts, lesions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BSpline

from bdfm_nnunet.data import phantom
from bdfm_nnunet.data.phantom import CHANNELS, ENHANCING, NECROSIS, OEDEMA, Grid, draw_lesion, draw_subject, render

GRID = Grid((40, 48, 36), (4.0, 4.0, 4.4))


@pytest.fixture(scope="module")
def subject():
    drawn = draw_subject(np.random.default_rng(3))
    rim = replace(drawn.lesions[0], core_mm=18.0, rim_mm=6.0, oedema_mm=16.0, position=0.6)
    return replace(drawn, lesions=(rim,))


@pytest.fixture(scope="module")
def rendered(subject):
    return render(subject, GRID)


def test_rendering_a_subject_again_gives_the_same_bits(subject, rendered):
    images, labels = render(subject, GRID)
    assert all((images[name] == rendered[0][name]).all() for name in CHANNELS)
    assert (labels == rendered[1]).all()


def test_types_background_and_brain_mask(rendered):
    images, labels = rendered
    assert list(images) == list(CHANNELS)
    masks = [image > 0 for image in images.values()]
    assert all(image.dtype == np.int16 and image.min() == 0 for image in images.values())
    assert all((mask == masks[0]).all() for mask in masks)
    assert 1.0e6 < masks[0].sum() * np.prod(GRID.spacing) < 2.2e6  # a brain has 1 to 2 litres
    assert not labels[~masks[0]].any()
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def contrast(subject, name):
    """Mean brightness of each tissue in units of the channel's gain, without noise and bias."""
    quiet = replace(subject, noise=0.0, bias=subject.bias * 0, texture=subject.texture * 0)
    images, labels = render(quiet, GRID)
    tissue = phantom._anatomy(quiet, GRID)
    image = images[name] / subject.gain[name]
    healthy = labels == 0
    means = {
        "white": image[healthy & (tissue[1] > 0.85)].mean(),
        "grey": image[healthy & (tissue[2] > 0.8)].mean(),
        "fluid": image[healthy & (tissue[3] > 0.6)].mean(),
    }
    return means | {value: image[labels == value].mean() for value in (NECROSIS, OEDEMA, ENHANCING)}


def test_contrasts_have_the_order_known_from_mri(subject):
    t1n, t1c, t2w, t2f = (contrast(subject, name) for name in CHANNELS)
    assert t1n["white"] > t1n["grey"] > t1n["fluid"]
    assert t2w["fluid"] > t2w["grey"] > t2w["white"]
    assert t2f["fluid"] < 0.6 * min(t2f["white"], t2f["grey"])
    assert t2f[OEDEMA] == max(t2f.values())
    assert t1c[ENHANCING] == max(t1c.values()) and t1c[ENHANCING] > 1.3 * t1n[ENHANCING]
    assert t1n[NECROSIS] < t1n["grey"] and t2w[NECROSIS] > t2w["grey"]


def test_lesion_without_rim_or_without_necrosis(subject):
    lesion = subject.lesions[0]
    solid = render(replace(subject, lesions=(replace(lesion, rim_mm=lesion.core_mm),)), GRID)[1]
    assert (solid == ENHANCING).any() and not (solid == NECROSIS).any()
    plain = render(replace(subject, lesions=(replace(lesion, rim_mm=0.0),)), GRID)[1]
    assert (plain == NECROSIS).any() and not (plain == ENHANCING).any()


@pytest.mark.parametrize(("name", "factor", "value"), [("core_mm", 1.3, NECROSIS), ("oedema_mm", 1.5, OEDEMA)])
def test_size_parameters_act(subject, rendered, name, factor, value):
    lesion = subject.lesions[0]
    larger = replace(lesion, **{name: getattr(lesion, name) * factor})
    labels = render(replace(subject, lesions=(larger,)), GRID)[1]
    assert (labels == value).sum() > 1.2 * (rendered[1] == value).sum()


def test_position_axes_rotation_and_outline_change_the_labels(subject, rendered):
    lesion = subject.lesions[0]
    stretched = replace(lesion, axes=np.array([2.0, 0.5, 1.0], dtype=np.float32))
    turn = np.eye(3, dtype=np.float32)[[1, 0, 2]]
    changes = [
        replace(lesion, position=0.1),
        stretched,
        replace(stretched, rotation=turn @ stretched.rotation),
        replace(lesion, outline=lesion.outline * 0),
    ]
    volumes = [rendered[1], *[render(replace(subject, lesions=(change,)), GRID)[1] for change in changes]]
    for number, labels in enumerate(volumes):
        assert labels.any()
        assert all((labels != other).any() for other in volumes[:number])


def test_two_lesions_keep_the_higher_ranked_label(subject, rendered):
    lesion = subject.lesions[0]
    inner = replace(lesion, core_mm=30.0, rim_mm=0.0)
    both = render(replace(subject, lesions=(lesion, inner)), GRID)[1]
    swapped = render(replace(subject, lesions=(inner, lesion)), GRID)[1]
    assert (both == swapped).all()
    assert (both[rendered[1] == ENHANCING] == ENHANCING).all()
    alone = render(replace(subject, lesions=(inner,)), GRID)[1]
    assert (both[(alone == NECROSIS) & (rendered[1] != ENHANCING)] == NECROSIS).all()


@pytest.mark.parametrize(
    "part", ["linear", "shift", "warp", "bias", "texture", "noise_seed", "noise", "gain", "levels"]
)
def test_every_part_of_a_subject_acts(subject, rendered, part):
    other = draw_subject(np.random.default_rng(4))
    images, _ = render(replace(subject, **{part: getattr(other, part)}), GRID)
    assert any((images[name] != rendered[0][name]).any() for name in CHANNELS)


def test_warp_cannot_fold():
    subject = draw_subject(np.random.default_rng(0))
    grid = Grid((60, 60, 40), (4.0, 4.0, 4.0))
    fields = [phantom.smooth_field(lattice, phantom._WARP_STEP, grid.axes()) for lattice in subject.warp]
    jacobian = np.stack([np.stack(np.gradient(field, 4.0)) for field in fields])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3))
    assert determinant.min() > 0.2 and determinant.max() < 3


def test_noise_is_rician():
    subject = draw_subject(np.random.default_rng(1))
    quiet = replace(subject, noise=0.0)
    clean, noisy = render(quiet, GRID)[0]["t1n"].astype(float), render(subject, GRID)[0]["t1n"].astype(float)
    sigma = subject.noise * subject.gain["t1n"]
    bright = clean > 5 * sigma
    assert (noisy - clean)[bright].std() == pytest.approx(sigma, rel=0.05)


def test_smooth_field_equals_scipys_splines():
    rng = np.random.default_rng(0)
    step, extent = 30.0, 240.0
    weights = rng.normal(size=(11,))
    x = np.linspace(-110, 110, 37).astype(np.float32)
    basis = phantom._spline_basis(x, step, extent, 11)
    knots = (np.arange(15) - 3) * step - extent / 2
    expected = BSpline(knots, weights, 3)(x)
    np.testing.assert_allclose(basis @ weights, expected, atol=1e-4)


def test_same_subject_on_a_finer_grid_is_the_same_anatomy(subject, rendered):
    fine_grid = Grid((80, 96, 72), (2.0, 2.0, 2.2))
    fine = render(subject, fine_grid)[0]["t1n"].astype(float)
    pooled = fine.reshape(40, 2, 48, 2, 36, 2).mean(axis=(1, 3, 5))
    coarse = rendered[0]["t1n"].astype(float)
    assert np.corrcoef(pooled.ravel(), coarse.ravel())[0, 1] > 0.97


def test_drawn_lesions_cover_all_kinds_and_stay_in_range():
    lesions = [draw_lesion(np.random.default_rng(seed)) for seed in range(80)]
    assert any(lesion.rim_mm == 0 for lesion in lesions)
    assert any(lesion.rim_mm >= lesion.core_mm for lesion in lesions)
    assert sum(0 < lesion.rim_mm < lesion.core_mm for lesion in lesions) > 40
    assert all(np.prod(lesion.axes) == pytest.approx(1, abs=1e-5) for lesion in lesions)
    assert all(np.allclose(lesion.rotation @ lesion.rotation.T, np.eye(3), atol=1e-5) for lesion in lesions)
    counts = [len(draw_subject(np.random.default_rng(seed)).lesions) for seed in range(30)]
    assert set(counts) == {1, 2}


def test_missing_template_names_the_remedy(monkeypatch):
    phantom._template.cache_clear()
    monkeypatch.setattr(phantom.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(phantom.InputError, match="pip install nilearn"):
        phantom._template()


def test_incomplete_template_names_the_file(monkeypatch, tmp_path):
    phantom._template.cache_clear()
    monkeypatch.setattr(
        phantom.importlib.util,
        "find_spec",
        lambda name: type("Spec", (), {"submodule_search_locations": [str(tmp_path)]}),
    )
    with pytest.raises(phantom.InputError, match=r"mni_icbm152_t1.* is missing from nilearn"):
        phantom._template()
