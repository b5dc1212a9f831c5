"""The plain arm of step.py is the published model: it agrees with the package in its published form."""

import published
import pytest
import step
import torch

from bdfm_nnunet.networks.network_costs import count_costs


def test_gradients_agree_in_double_precision() -> None:
    assert step.agreement(32) < 1e-13


def test_the_agreement_notices_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = published._shift_mask
    monkeypatch.setattr(published, "_shift_mask", lambda *arguments: 0 * masks(*arguments))
    assert step.agreement(32) > 1e-6


def test_losses_agree_for_a_batch_and_the_default_is_another() -> None:
    images = step.images_for(2, 32, "cpu")
    losses = {}
    for kind in ("legacy", "default"):
        module = step.objective(kind)
        mask = module.draw_mask(2, images.shape[2:], generator=torch.Generator().manual_seed(2))
        losses[kind] = module.eval()(images, mask=mask)["loss"].item()
        if kind == "legacy":
            plain = published.loss_of(dict(module.named_parameters()), images, mask).item()
    assert losses["legacy"] == pytest.approx(plain, rel=1e-5)
    assert losses["default"] != pytest.approx(plain, rel=1e-2)


def test_flops_by_the_counter() -> None:
    """PyTorch's counter over the plain arm itself, less what its formula leaves out: frequencies and convolutions."""
    module = step.objective("published")
    images = torch.zeros(1, 1, 64, 64, 64)
    mask = torch.ones(1, 16, 16, 16, dtype=torch.bool)
    weights = dict(module.named_parameters())
    counter = torch.utils.flop_counter.FlopCounterMode(display=False)
    with counter, torch.no_grad():
        published.encode(weights, images, mask)
    formula = published.flops(1, 64) / 3 - 2 * 64**3 * 16 - 2 * (16 * 2 * 2) * 768 * 16 * 4 * 8 * 8
    assert counter.get_total_flops() == pytest.approx(formula, rel=1e-3)
    assert published.flops(2, 64) == 2 * published.flops(1, 64)


def test_ours_needs_less_arithmetic() -> None:
    ours = count_costs(lambda: step.objective("default"), (1, 1, 96, 96, 96))
    assert ours.forward_flops is not None and ours.backward_flops is not None
    assert 0.7 < (ours.forward_flops + ours.backward_flops) / published.flops(1, 96) < 0.9
