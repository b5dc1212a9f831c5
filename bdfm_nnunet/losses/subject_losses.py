"""Losses of targets that belong to a whole subject; each gives one value per subject, or one per batch (Cox)."""

import torch
from torch import Tensor
from torch.nn import functional


def sequential_loss(logits: Tensor, reached: Tensor, stopped: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the negative log likelihood of stopping at one of a row of steps, or of passing all that were reached.

    The logits are those of the conditional probability of stopping at a step that was reached. With intervals of time
    as steps this is discrete-time survival (Gensheimer and Narasimhan 2019, https://doi.org/10.7717/peerj.6257), with
    the classes of an ordinal target it is CORN (Shi et al. 2021, https://arxiv.org/abs/2111.08851).

    Args:
        logits: (B, steps).
        reached: (B, steps), 1 where a subject came to the step, 0 where it stopped or was lost from view before.
        stopped: (B, steps), 1 at the step where it stopped.
        smoothing: share of the probability that is left to the other answer.

    Returns:
        (B,).

    Example:
        >>> logits = torch.zeros(1, 3)
        >>> sequential_loss(logits, torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))  # 2 ln 2
        tensor([1.3863])
    """
    wanted = stopped * (1 - smoothing) + smoothing / 2
    return (functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * reached).sum(1)


def step_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of stopping at each step, and of having passed each, (B, steps) each.

    Example:
        >>> stopping, passed = step_probabilities(torch.zeros(1, 2))
        >>> stopping, passed
        (tensor([[0.5000, 0.2500]]), tensor([[0.5000, 0.2500]]))
    """
    passed = functional.logsigmoid(-logits).cumsum(1).exp()
    before = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
    return logits.sigmoid() * before, passed


def ordinal_steps(classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return which steps subjects of ordinal classes (B,) reach and at which they stop, (B, count - 1) each.

    Example:
        >>> ordinal_steps(torch.tensor([0, 2]), 3)
        (tensor([[1., 0.],
                [1., 1.]]), tensor([[1., 0.],
                [0., 0.]]))
    """
    steps = torch.arange(count - 1, device=classes.device)
    return (classes[:, None] >= steps).float(), (classes[:, None] == steps).float()


def survival_steps(times: Tensor, events: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Return which intervals of time subjects reach and in which their event is, (B, intervals) each.

    Args:
        times: (B,), of the event or the end of the observation.
        events: (B,), 1 where the event happened, 0 where the subject was lost from view.
        edges: (intervals,), upper ends, increasing; the first interval begins at 0, and what is later than the last end
            counts as its passing.

    Who is lost from view in an interval counts as passing it if that was in its second half.

    Example:
        >>> reached, stopped = survival_steps(torch.tensor([5.0, 16.0]), torch.tensor([1.0, 0.0]),
        ...                                   torch.tensor([10.0, 20.0, 30.0]))
        >>> reached, stopped
        (tensor([[1., 0., 0.],
                [1., 1., 0.]]), tensor([[1., 0., 0.],
                [0., 0., 0.]]))
    """
    starts = torch.cat([torch.zeros_like(edges[:1]), edges[:-1]])
    inside = (times[:, None] > starts) & (times[:, None] <= edges)
    inside[:, 0] |= times <= 0
    stopped = inside & (events[:, None] > 0)
    halfway = times[:, None] >= (starts + edges) / 2
    return (stopped | halfway).float(), stopped.float()


def cox_loss(risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Return Cox's negative log partial likelihood per event, with Efron's rule for ties.

    Efron 1977, https://doi.org/10.1080/01621459.1977.10480613.

    Args:
        risks: (B,), log hazard of each subject relative to the baseline.
        times: (B,).
        events: (B,), 1 where the event happened, 0 where the subject was lost from view.

    Returns:
        A scalar; 0 where no event happened.

    Example:
        >>> cox_loss(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0]))  # ln 3
        tensor(1.0986)
    """
    happened = events > 0
    if not bool(happened.any()):
        return risks.sum() * 0
    at = times[happened]
    total = risks.new_zeros(())
    for time in at.unique():
        tied = happened & (times == time)
        count = int(tied.sum())
        everyone, themselves = risks[times >= time].logsumexp(0), risks[tied].logsumexp(0)
        shares = torch.arange(count, device=risks.device, dtype=risks.dtype) / count
        # log(sum of those at risk - share of the tied), without leaving the logarithm
        left = everyone + torch.log1p(-shares * (themselves - everyone).exp())
        total = total + left.sum() - risks[tied].sum()
    return total / len(at)


def breslow_hazard(risks: Tensor, times: Tensor, events: Tensor, at: Tensor) -> Tensor:
    """Return the cumulative baseline hazard of a Cox model at some times.

    Breslow 1972, discussion of https://doi.org/10.1111/j.2517-6161.1972.tb00900.x: the sum, over the events up to a
    time, of 1 over the summed relative hazards of those at risk. The probability to be without event at time t is then
    exp(-H(t) exp(risk)).

    Args:
        risks: (B,), log hazard of each training subject relative to the baseline.
        times: (B,).
        events: (B,), 1 where the event happened, 0 where the subject was lost from view.
        at: (T,).

    Returns:
        (T,), in double precision.

    Example:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 1.0])
        >>> breslow_hazard(torch.zeros(3), times, events, torch.tensor([0.5, 1.0, 3.0]))  # 0, 1/3, 1/3 + 1
        tensor([0.0000, 0.3333, 1.3333], dtype=torch.float64)
    """
    relative, happened = risks.double().exp(), events > 0
    at_risk = (relative[None, :] * (times[None, :] >= times[happened, None])).sum(1)
    before: Tensor = times[happened][None, :] <= at[:, None]
    return (before / at_risk[None, :]).sum(1)
