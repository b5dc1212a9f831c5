"""The published views, step by step against the public code's results and against plain PyTorch."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from bdfm_nnunet.intensity_changes import standardised
from bdfm_nnunet.objectives.legacy_views import draw_legacy_views, gamma_on_range, legacy_view, resized_box, turned

ROOT = Path(__file__).parents[2]
OUTPUTS = Path(os.environ.get("BDFM_GOLDEN", ROOT.parent / "shared" / "golden")) / "simclr_resnet18.safetensors"
needs_outputs = pytest.mark.skipif(
    not OUTPUTS.is_file(), reason="the outputs of 3D-Neuro-SimCLR are not here: name their folder with BDFM_GOLDEN"
)
IMAGES = torch.randn(3, 1, 12, 16, 14, generator=torch.Generator().manual_seed(0))


@needs_outputs
def test_golden_steps() -> None:
    golden = load_file(OUTPUTS)
    box = torch.tensor([[2, 3, 5]]), torch.tensor([[15, 17, 20]]), (12, 16, 16)
    view = resized_box(golden["view_in"][None], *box)
    brain = resized_box(golden["view_mask"][None].float(), *box, nearest=True)
    _equal(view, golden["view_resized"])
    _equal(brain, golden["view_resized_mask"])
    flipped, mask = view.flip(-1), brain.flip(-1)
    _equal(flipped, golden["view_flipped"])
    _equal(turned(flipped, torch.tensor([0.4])), golden["view_rotated_0.4"])
    _equal(turned(mask, torch.tensor([0.4]), nearest=True), golden["view_rotated_mask_0.4"])
    changed = gamma_on_range(flipped, torch.tensor([0.7]))
    _equal(changed, golden["view_gamma07"])
    _equal(standardised(flipped, mask > 0), golden["view_std_plain"])
    _equal(standardised(changed, mask > 0), golden["view_std_gamma"])
    _equal(standardised(changed + 0.3, mask > 0), golden["view_std_gamma_shift"])
    tiny = standardised(golden["tiny_image"], golden["tiny_mask"] > 0)
    _equal(tiny[0], golden["tiny_standardized"][0])


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    theirs = theirs.float()
    assert (ours.reshape(theirs.shape) - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


def test_boxes_are_resized_as_pytorch_resizes_the_box_alone() -> None:
    corners, sides = (
        torch.tensor([[0, 2, 3], [4, 0, 1], [0, 0, 0]]),
        torch.tensor([[5, 7, 9], [8, 16, 3], [12, 16, 14]]),
    )
    linear = resized_box(IMAGES, corners, sides, (9, 16, 11))
    nearest = resized_box(IMAGES, corners, sides, (9, 16, 11), nearest=True)
    for sample, (corner, side) in enumerate(zip(corners.tolist(), sides.tolist())):
        box = IMAGES[(sample, slice(None), *(slice(c, c + s) for c, s in zip(corner, side)))][None]
        expected = functional.interpolate(box, (9, 16, 11), mode="trilinear")
        torch.testing.assert_close(linear[sample], expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(nearest[sample], functional.interpolate(box, (9, 16, 11))[0], rtol=0, atol=1e-5)


def _drawn(seed: int = 0, batch: int = 3, spatial: tuple[int, ...] = (12, 16, 14)) -> dict[str, torch.Tensor]:
    return draw_legacy_views(batch, spatial, generator=torch.Generator().manual_seed(seed))


def _neutral(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "corner": torch.zeros(3, 3, dtype=torch.long),
        "side": torch.tensor([[12, 16, 14]]).expand(3, 3),
        "flip": torch.zeros(3, dtype=torch.bool),
        "angle": torch.zeros(3),
        "shift": torch.zeros(3),
        "gamma": torch.ones(3),
    } | changes


def test_a_shift_is_undone_and_every_other_part_acts() -> None:
    plain = legacy_view(IMAGES, _neutral())
    torch.testing.assert_close(plain, standardised(IMAGES, IMAGES != 0), rtol=0, atol=1e-5)
    torch.testing.assert_close(legacy_view(IMAGES, _neutral(shift=torch.full((3,), 0.4))), plain, rtol=0, atol=1e-5)
    flipped = legacy_view(IMAGES, _neutral(flip=torch.ones(3, dtype=torch.bool)))
    torch.testing.assert_close(flipped, plain.flip(-1), rtol=0, atol=1e-5)
    changes = {
        "corner": torch.tensor([[2, 2, 2]]).expand(3, 3),
        "angle": torch.full((3,), 0.3),
        "gamma": torch.full((3,), 0.6),
        "side": torch.tensor([[6, 8, 7]]).expand(3, 3),
    }
    for name, values in changes.items():
        assert (legacy_view(IMAGES, _neutral(**{name: values})) - plain).abs().max() > 0.05, name


def test_draws_lie_in_the_published_ranges() -> None:
    drawn = _drawn(batch=3000, spatial=(150, 192, 192))
    least, whole = torch.tensor([30, 40, 40]), torch.tensor([150, 192, 192])
    assert (drawn["side"] >= least).all() and (drawn["side"] <= whole).all()
    assert (drawn["side"].amin((0, 1)) == least).all() and (drawn["side"].amax((0, 1)) == whole).all()
    assert (drawn["corner"] >= 0).all() and (drawn["corner"] + drawn["side"] <= whole).all()
    shares = (drawn["side"] / whole).prod(-1).flatten()
    assert abs(shares.median() - 0.18) < 0.01
    for name, neutral, share in (("angle", 0, 0.5), ("shift", 0, 0.2), ("gamma", 1, 0.2)):
        assert abs((drawn[name] == neutral).float().mean() - share) < 0.03
    assert drawn["angle"].abs().max() <= 0.785 and drawn["shift"].abs().max() <= 0.5
    assert abs(drawn["flip"].float().mean() - 0.5) < 0.03
    assert all(torch.equal(value, _drawn(batch=3000, spatial=(150, 192, 192))[name]) for name, value in drawn.items())


@pytest.mark.parametrize("spatial", [(12, 16, 14), (16, 18)])
def test_whole_chain_is_finite_also_without_any_brain(spatial: tuple[int, ...]) -> None:
    images = torch.randn(4, 2, *spatial)
    images[0] = 0
    drawn = _drawn(batch=4, spatial=spatial)
    view = legacy_view(images, {name: value[:, 0] for name, value in drawn.items()})
    assert view.shape == images.shape and view.isfinite().all() and (view[0] == 0).all()
