"""Losses of subject-level targets against slow code and hand-computed cases."""

import math

import pytest
import torch

from bdfm_nnunet.losses.subject_losses import (
    breslow_hazard,
    cox_loss,
    ordinal_steps,
    sequential_loss,
    step_probabilities,
    survival_steps,
)


def _slow_cox(risks: list[float], times: list[float], events: list[float]) -> float:
    """Efron's partial likelihood as it stands in the textbook, tie by tie."""
    total, count = 0.0, sum(events)
    for time in sorted({t for t, e in zip(times, events) if e}):
        tied = [i for i, (t, e) in enumerate(zip(times, events)) if t == time and e]
        at_risk = sum(math.exp(r) for r, t in zip(risks, times) if t >= time)
        themselves = sum(math.exp(risks[i]) for i in tied)
        total -= sum(risks[i] for i in tied)
        total += sum(math.log(at_risk - share / len(tied) * themselves) for share in range(len(tied)))
    return total / count


@pytest.mark.parametrize("ties", [False, True])
def test_cox_equals_the_textbook(ties: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    risks = torch.randn(12, generator=generator, dtype=torch.float64)
    times = torch.rand(12, generator=generator, dtype=torch.float64) * 10
    times = times.round() if ties else times
    events = (torch.rand(12, generator=generator) < 0.6).double()
    assert not ties or len(times.unique()) < 12
    found = cox_loss(risks, times, events)
    assert found.item() == pytest.approx(_slow_cox(risks.tolist(), times.tolist(), events.tolist()), rel=1e-10)


def test_cox_is_finite_for_large_risks_and_zero_without_events() -> None:
    risks = torch.tensor([90.0, -90.0, 0.0], requires_grad=True)
    loss = cox_loss(risks, torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.isfinite() and risks.grad is not None and risks.grad.isfinite().all()
    nothing = cox_loss(risks, torch.tensor([1.0, 1.0, 2.0]), torch.zeros(3))
    nothing.backward()
    assert nothing.item() == 0


def test_cox_asks_for_larger_risks_of_earlier_events() -> None:
    times, events = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)
    right, wrong = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
    assert cox_loss(right, times, events) < cox_loss(wrong, times, events)


def test_discrete_survival_is_the_likelihood_of_what_was_seen() -> None:
    """Event in the second interval: passes the first, stops in the second. Lost in the third: passes two."""
    edges, logits = torch.tensor([1.0, 2.0, 3.0]), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    reached, stopped = survival_steps(torch.tensor([1.5, 2.2]), torch.tensor([1.0, 0.0]), edges)
    hazards = logits.sigmoid()
    event = (1 - hazards[0, 0]) * hazards[0, 1]
    lost = (1 - hazards[1, 0]) * (1 - hazards[1, 1])
    found = sequential_loss(logits, reached, stopped)
    assert torch.allclose(found, -torch.stack([event, lost]).log(), atol=1e-6)


def test_events_at_an_edge_and_beyond_the_last() -> None:
    edges = torch.tensor([1.0, 2.0])
    reached, stopped = survival_steps(torch.tensor([1.0, 0.0, 9.0]), torch.ones(3), edges)
    assert stopped.tolist() == [[1, 0], [1, 0], [0, 0]] and reached[2].tolist() == [1, 1]


def test_probabilities_of_classes_sum_to_one_and_fit_the_loss() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stopping, passed = step_probabilities(logits)
    chances = torch.cat([stopping, passed[:, -1:]], 1)
    assert torch.allclose(chances.sum(1), torch.ones(5, dtype=torch.float64))
    for label in range(4):
        classes = torch.full((5,), label)
        reached, stopped = (each.double() for each in ordinal_steps(classes, 4))
        assert torch.allclose(sequential_loss(logits, reached, stopped), -chances[:, label].log())


def test_without_risks_the_baseline_is_the_nelson_aalen_estimate() -> None:
    """Ties at 2: two events among the four at risk; the one censored at 2 is still at risk then."""
    times, events = torch.tensor([1.0, 2.0, 2.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    found = breslow_hazard(torch.zeros(5), times, events, torch.tensor([0.9, 1.0, 2.0, 4.0, 9.0]))
    assert found.tolist() == pytest.approx([0, 1 / 5, 1 / 5 + 2 / 4, 1 / 5 + 2 / 4, 1 / 5 + 2 / 4 + 1])


def test_the_baseline_equals_slow_code_and_undoes_a_shift_of_all_risks() -> None:
    generator = torch.Generator().manual_seed(11)
    risks = torch.randn(30, generator=generator, dtype=torch.float64)
    times = (torch.rand(30, generator=generator, dtype=torch.float64) * 12).round()
    events = (torch.rand(30, generator=generator) < 0.6).double()
    at = torch.tensor([0.0, 3.0, 3.5, 11.0], dtype=torch.float64)
    slow = []
    for limit in at.tolist():
        hazard = 0.0
        for time, event in zip(times.tolist(), events.tolist()):
            if event and time <= limit:
                hazard += 1 / sum(math.exp(r) for r, t in zip(risks.tolist(), times.tolist()) if t >= time)
        slow.append(hazard)
    assert breslow_hazard(risks, times, events, at).tolist() == pytest.approx(slow, rel=1e-12)
    shifted = breslow_hazard(risks + 5, times, events, at) * math.exp(5)
    assert shifted.tolist() == pytest.approx(slow, rel=1e-12)
