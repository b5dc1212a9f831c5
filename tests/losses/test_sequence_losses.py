import re

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.losses import sequence_mse
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.objectives.sequence_masks import of_windows
from tests.golden_outputs import golden_numbers, golden_tensors

_GENERATOR = torch.Generator().manual_seed(0)
PREDICTION, TARGET = torch.randn(2, 4, 2, 6, 4, 4, 6, generator=_GENERATOR).unbind()
MASK = torch.rand(4, 3, 2, 4, 6, generator=_GENERATOR) < 0.4
BRAIN = torch.rand(4, 6, 4, 4, generator=_GENERATOR) < 0.5
PATCH = (2, 2, 1, 1)


def _loss(prediction: Tensor = PREDICTION, rows: list[int] | slice = slice(None), **options: object) -> Tensor:
    options = {name: value[rows] if isinstance(value, Tensor) else value for name, value in options.items()}
    return sequence_mse(prediction[rows], TARGET[rows], MASK[rows], **options)  # type: ignore[arg-type]


def test_loss_is_the_error_of_the_brain_in_masked_tokens() -> None:
    errors = []
    for prediction, target, mask, brain in zip(PREDICTION, TARGET, upsample(MASK, PATCH), BRAIN, strict=True):
        counted = mask & brain[..., None]
        errors.append((prediction - target).square()[:, counted].mean())
    torch.testing.assert_close(_loss(brain=BRAIN), torch.stack(errors).mean())
    torch.testing.assert_close(_loss(brain=torch.ones_like(BRAIN)), _loss())
    torch.testing.assert_close(_loss(brain=0.5 * BRAIN), _loss(brain=BRAIN))


def test_the_background_and_what_is_visible_have_no_influence() -> None:
    elsewhere = ~(upsample(MASK, PATCH) & BRAIN[..., None])[:, None].expand_as(TARGET)
    changed = PREDICTION.masked_fill(elsewhere, 7.0).requires_grad_()
    loss = _loss(changed, brain=BRAIN)
    torch.testing.assert_close(loss, _loss(brain=BRAIN))
    loss.backward()
    assert changed.grad is not None and not changed.grad[elsewhere].any() and changed.grad[~elsewhere].all()
    assert not torch.isclose(_loss(changed, region="all"), _loss(region="all"))


def test_samples_count_alike_in_any_order_and_however_the_batch_is_split() -> None:
    whole = _loss(brain=BRAIN)
    torch.testing.assert_close(_loss(rows=[2, 0, 3, 1], brain=BRAIN), whole)
    halves = [_loss(rows=rows, brain=BRAIN) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)
    torch.testing.assert_close(torch.stack([_loss(rows=[i], brain=BRAIN) for i in range(4)]).mean(), whole)
    published = torch.stack([_loss(rows=rows, region="all") for rows in (slice(0, 2), slice(2, 4))]).mean()
    assert not torch.isclose(published, _loss(region="all"))  # which is why it is not the default


def test_a_sample_without_masked_brain_counts_nothing() -> None:
    brain = BRAIN.clone()
    brain[1] = False
    torch.testing.assert_close(_loss(brain=brain), _loss(rows=[0, 2, 3], brain=BRAIN) * 3 / 4)


def test_the_published_loss_is_the_mean_over_the_masked_units_of_the_batch() -> None:
    error = (PREDICTION - TARGET).square().mean(1)
    each = [error[b, 2 * x : 2 * x + 2, 2 * y : 2 * y + 2, z, t].mean() for b, x, y, z, t in MASK.nonzero().tolist()]
    torch.testing.assert_close(_loss(region="all"), torch.stack(each).mean())
    windows = torch.tensor(
        [[True, False] * 2, [True, True, False, False], [False, True] * 2, [True, False, False, False]]
    )
    mask = of_windows(windows, (3, 2, 4, 6), (2, 2, 4, 4))  # of which some are cut off in x, and in time
    starts = [(b, 2 * (w // 2), 4 * (w % 2)) for b, w in windows.nonzero().tolist()]
    each = [error[b, 2 * x : 2 * x + 4, :, :, t : t + 4].mean() for b, x, t in starts]
    found = sequence_mse(PREDICTION, TARGET, mask, region="all", unit=(2, 2, 4, 4))
    torch.testing.assert_close(found, torch.stack(each).mean())
    assert sequence_mse(PREDICTION, TARGET, torch.zeros_like(MASK), region="all").isnan()


@pytest.mark.parametrize("kind", ["window", "random", "atlas"])
def test_the_published_loss_is_near_the_recorded_one_on_every_third_voxel(kind: str) -> None:
    """A third of the voxels along each axis is recorded; the network's own test holds the loss to five digits."""
    golden, numbers = golden_tensors("neurostorm_small"), golden_numbers("neurostorm_small")
    prefix, ending = ("", "") if kind == "window" else (f"{kind}.", f"_{kind}")
    target = golden["image"].float()[..., ::3, ::3, ::3, ::3]
    mask = golden[f"{prefix}mask_tokens"].bool()[..., ::3]
    unit = (4, 4, 4, 2) if kind == "window" else None
    found = sequence_mse(golden[f"{prefix}pred_sub"].float(), target, mask, region="all", unit=unit)
    assert found == pytest.approx(numbers[f"loss{ending}"], rel=0.05)


def test_half_precision_is_summed_in_single() -> None:
    found = sequence_mse(PREDICTION.half(), TARGET.half(), MASK, brain=BRAIN)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, _loss(brain=BRAIN), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": PREDICTION[:, :1]}, "expected two (B, C, X, Y, Z, T)"),
        ({"mask": MASK.float()}, "must be boolean"),
        ({"mask": MASK[:, :, :, :, :5]}, "does not fill"),
        ({"brain": BRAIN[:, :3]}, "brain must be (B, X, Y, Z)"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(options: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sequence_mse(**{"prediction": PREDICTION, "target": TARGET, "mask": MASK} | options)  # type: ignore[arg-type]
