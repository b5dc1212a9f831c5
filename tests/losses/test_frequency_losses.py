import math
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.losses import gradient_loss, high_frequency_loss, published_filter, rmse_loss
from tests.golden_outputs import golden_numbers, golden_tensors
from tests.objectives.corruptions.frepa_cases import SHAPES, case

PUBLISHED = ["64x64", "48x64", "33x41"]
LOSSES = {"rmse": rmse_loss, "gradient": gradient_loss, "hfl": high_frequency_loss}


@pytest.mark.parametrize("shape", SHAPES)
def test_corrected_losses_agree_with_a_slow_version(shape: str) -> None:
    golden = case(shape)
    pred, target, spacing = golden.image("pred"), golden.image("volume"), golden.spacing
    expected = golden.facts["losses"]
    cutoffs = golden.facts["hfl_cutoffs_cycles_per_mm"]
    ours = {
        "rmse": rmse_loss(pred, target),
        "gradient_per_mm": gradient_loss(pred, target, spacing=spacing),
        "gradient_per_voxel": gradient_loss(pred, target),
        "hfl": high_frequency_loss(pred, target, spacing=spacing),
    }
    for name, value in ours.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4), name
    for cutoff, term in zip(cutoffs, expected["hfl_terms"], strict=True):
        value = high_frequency_loss(pred, target, spacing=spacing, cutoffs=[cutoff])
        assert value.item() == pytest.approx(term, rel=1e-4)
    assert rmse_loss(target, target).item() == pytest.approx(golden.facts["losses_at_equality"]["rmse"], rel=1e-4)
    shifted = target + 0.3
    assert gradient_loss(shifted, target, spacing=spacing) < 1e-6
    assert high_frequency_loss(shifted, target, spacing=spacing) < 1e-6


@pytest.mark.parametrize("shape", PUBLISHED)
def test_legacy_agrees_with_the_published_code(shape: str) -> None:
    tensors = golden_tensors("frepa_reference")
    facts = next(
        one for one in golden_numbers("frepa_reference")["losses"] if "x".join(map(str, one["shape"])) == shape
    )
    target = tensors[f"loss_{shape}.target"]
    gain = published_filter(target.shape[2:], 10)
    assert (gain - tensors[f"loss_{shape}.filter_d10"]).abs().max() < 1e-5
    legacy: dict[str, dict[str, Any]] = {"rmse": {"legacy": True}, "gradient": {}, "hfl": {"legacy": True}}
    for name, loss in LOSSES.items():
        pred = tensors[f"loss_{shape}.pred"].clone().requires_grad_()
        value = loss(pred, target, **legacy[name])  # type: ignore[operator]
        assert value.item() == pytest.approx(facts[name], rel=1e-4), name
        (gradient,) = torch.autograd.grad(value, pred)
        expected = tensors[f"loss_{shape}.grad_{name}"]
        # the sign of a difference near 0 hangs on the last bit
        assert (gradient - expected).abs().gt(1e-4 * expected.abs().max()).float().mean() < 1e-3, name
    for cutoff, term in zip((10, 20, 30, 40, 50), facts["hfl_terms"], strict=True):
        value = high_frequency_loss(tensors[f"loss_{shape}.pred"], target, cutoffs=[cutoff], legacy=True)
        assert value.item() == pytest.approx(term, rel=1e-4)


@pytest.mark.parametrize(
    ("spatial", "spacing"), [((9,), (0.7,)), ((6, 8), (2.0, 0.5)), ((5, 6, 4), (3.0, 0.9, 1.1)), ((3, 4, 2, 3), None)]
)
def test_high_frequency_loss_is_its_formula(spatial: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    pred, target = torch.randn(2, 2, 3, *spatial, dtype=torch.float64)
    steps = spacing or (1.0,) * len(spatial)
    axes = [np.fft.fftfreq(size, step) for size, step in zip(spatial, steps, strict=True)]
    squares = sum(part**2 for part in np.meshgrid(*axes, indexing="ij"))
    expected = 0.0
    for cutoff in (0.05, 0.3):
        for sample in (pred - target).flatten(0, 1).numpy():
            expected += np.abs(np.fft.ifftn(np.fft.fftn(sample) * (1 - np.exp(-squares / cutoff**2)))).mean() / 6
    ours = high_frequency_loss(pred, target, spacing=spacing, cutoffs=(0.05, 0.3))
    assert ours.item() == pytest.approx(expected, rel=1e-9)
    default = [count / 512 / min(steps) for count in (10, 20, 30, 40, 50)]
    assert torch.equal(
        high_frequency_loss(pred, target, spacing=spacing),
        high_frequency_loss(pred, target, spacing=spacing, cutoffs=default),
    )


def test_gradient_loss_is_its_formula() -> None:
    pred, target = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    error = (pred - target).numpy()
    expected = np.abs(np.diff(error, axis=2)).mean() / 2 + np.abs(np.diff(error, axis=3)).mean() / 0.5
    assert gradient_loss(pred, target, spacing=(2.0, 0.5)).item() == pytest.approx(expected)
    flat = torch.randn(2, 2, 3, 1, 5, dtype=torch.float64)
    assert math.isfinite(gradient_loss(flat[0], flat[1]))


def test_masks_count_their_voxels() -> None:
    pred, target = torch.randn(2, 2, 3, 6, 6, dtype=torch.float64)
    mask = torch.zeros(2, 6, 6, dtype=torch.bool)
    mask[0, 2:4, 1:5] = True
    mask[1, 5, 5] = True
    inside = [(pred - target)[0, :, 2:4, 1:5], (pred - target)[1, :, 5:, 5:]]
    expected = sum(part.square().mean().sqrt() for part in inside) / 2
    torch.testing.assert_close(rmse_loss(pred, target, mask=mask), expected)
    down = (pred - target).diff(dim=2).abs()
    across = (pred - target).diff(dim=3).abs()
    first = down[0, :, 1:4, 1:5].mean() + across[0, :, 2:4, :5].mean()
    second = down[1, :, 4, 5].mean() + across[1, :, 5, 4].mean()
    torch.testing.assert_close(gradient_loss(pred, target, mask=mask), (first + second) / 2)
    whole = torch.ones(2, 6, 6, dtype=torch.bool)
    empty = torch.zeros(2, 6, 6, dtype=torch.bool)
    for loss in LOSSES.values():
        torch.testing.assert_close(loss(pred, target, mask=whole), loss(pred, target))  # type: ignore[operator]
        assert loss(pred, target, mask=empty) < 1e-5  # type: ignore[operator]
    half = high_frequency_loss(pred, target, mask=mask)
    assert half != high_frequency_loss(pred, target) and half > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_mean_of_its_samples(name: str) -> None:
    pred, target = torch.randn(2, 3, 1, 6, 7, dtype=torch.float64)
    loss: Any = LOSSES[name]
    single = [loss(pred[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(pred, target), torch.stack(single).mean())
    torch.testing.assert_close(loss(pred, target, reduction="none"), torch.stack(single))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_prediction_and_target_are_equal(name: str) -> None:
    target = torch.rand(1, 1, 6, 6)
    pred = target.clone().requires_grad_()
    loss: Any = LOSSES[name]
    loss(pred, target).backward()
    assert pred.grad is not None and torch.isfinite(pred.grad).all()


def test_the_published_root_has_no_gradient_there() -> None:
    target = torch.rand(1, 1, 6, 6)
    pred = target.clone().requires_grad_()
    rmse_loss(pred, target, legacy=True).backward()
    assert pred.grad is not None and pred.grad.isnan().all()


def test_autocast_and_half_precision_are_lifted() -> None:
    pred, target = torch.randn(2, 1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in LOSSES.values():
            assert loss(pred.bfloat16(), target.bfloat16()).dtype == torch.float32  # type: ignore[operator]
        assert high_frequency_loss(pred, target, legacy=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": torch.zeros(1, 1, 8, 7)}, "differ in shape"),
        ({"mask": torch.ones(1, 8, 8)}, "must be boolean"),
        ({"mask": torch.ones(1, 4, 8, dtype=torch.bool)}, "must be boolean"),
        ({"cutoffs": ()}, "above 0"),
        ({"cutoffs": (0.1, 0.0)}, "above 0"),
        ({"spacing": (1.0,)}, "above 0 mm for each of 2 axes"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"prediction": torch.zeros(1, 1, 8, 8), "target": torch.zeros(1, 1, 8, 8)} | changes
    with pytest.raises(ValueError, match=message):
        high_frequency_loss(**arguments)
