"""Measures of embeddings without a gradient: how a contrastive training does, and what neighbours tell.

Shapes: embeddings (N, D); views in pairs are two (N, D) in the same order.
"""

import torch
from torch import Tensor

from bdfm_nnunet.losses.contrastive_losses import directions


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance of the two views on the unit sphere: 0 where they agree, 2 where unrelated.

    L_align with exponent 2 of Wang & Isola 2020 (https://arxiv.org/abs/2005.10242).

    Example:
        >>> alignment(torch.eye(2), 3 * torch.eye(2)), alignment(torch.eye(2), torch.eye(2).flip(0))
        (tensor(0.), tensor(2.))
    """
    return (directions(first) - directions(second)).square().sum(1).mean()


@torch.no_grad()
def uniformity(embeddings: Tensor) -> Tensor:
    """Return log mean exp(-2 d^2) over pairs of different samples, d their distance on the unit sphere.

    L_uniform with t = 2 of Wang & Isola 2020 (https://arxiv.org/abs/2005.10242): 0 where all embeddings are one, about
    -4 where they fill a sphere of many dimensions. NaN for fewer than two samples.

    Example:
        >>> uniformity(torch.ones(3, 2)), uniformity(torch.eye(3))
        (tensor(0.), tensor(-4.0000))
    """
    units = directions(embeddings)
    return torch.pdist(units).square().mul(-2).exp().mean().log()


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Return the effective number of dimensions that the embeddings use, at most min(N - 1, D).

    The exponential of the entropy of the singular values, which are divided by their sum (Roy & Vetterli 2007, "The
    effective rank: a measure of effective dimensionality"), of the centred embeddings; values within rounding of the
    embeddings count as none. 0 where all embeddings are alike.

    Example:
        >>> effective_rank(torch.eye(3)), effective_rank(torch.ones(3, 3))
        (tensor(2.), tensor(0.))
    """
    exact = embeddings.double()
    values = torch.linalg.svdvals(exact - exact.mean(0))
    rounding = torch.finfo(embeddings.dtype).eps * max(embeddings.shape) * torch.linalg.vector_norm(exact)
    values = values[values > rounding]
    share = values / values.sum()
    rank = torch.special.entr(share).sum().exp() if len(values) else exact.new_zeros(())
    return rank.float()


@torch.no_grad()
def pair_accuracy(first: Tensor, second: Tensor, *, groups: Tensor | None = None) -> Tensor:
    """Return the share of the 2N views whose pair is the most similar of the 2N - 1 others; chance is 1 / (2N - 1).

    Where several are equally similar, the pair counts as one guess among them. So embeddings that are all alike give
    the chance level, with groups too.

    Args:
        first: (N, D), one view of each sample.
        second: (N, D), the other views, in the same order.
        groups: (N,) whose samples they are, such as patients: other samples of one group are not compared; numbers
            below 0 match nobody.

    Example:
        >>> pair_accuracy(torch.eye(4), torch.eye(4)), pair_accuracy(torch.ones(4, 2), torch.ones(4, 2))
        (tensor(1.), tensor(0.1429))
    """
    views = directions(torch.cat([first, second]))
    scores = (views @ views.T).fill_diagonal_(-torch.inf)
    pair = scores.diagonal(len(first)).repeat(2)  # the similarity is symmetric
    if groups is not None:
        number, own = torch.arange(len(first), device=groups.device).repeat(2), groups.repeat(2)
        related = (own[:, None] == own) & (own >= 0) & (number[:, None] != number)
        scores = scores.masked_fill(related.to(scores.device), -torch.inf)
    ties = (scores >= pair[:, None]).sum(1)
    found = scores.amax(1) <= pair
    return (found / ties).mean()


@torch.no_grad()
def knn_accuracy(
    embeddings: Tensor,
    labels: Tensor,
    *,
    reference: tuple[Tensor, Tensor] | None = None,
    groups: Tensor | None = None,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Return the share of samples whose nearest neighbours vote for their label.

    Neighbours vote with weights exp(cosine / temperature), as in Wu et al. 2018 (https://arxiv.org/abs/1805.01978).

    Args:
        embeddings: (N, D), the samples to classify.
        labels: (N,) whole numbers; samples with a label below 0 (unknown) take no part.
        reference: embeddings (M, D) and labels (M,) of the neighbours; by default the other samples (leave one out).
        groups: (N,) whose samples they are, such as patients: without a `reference` these are no neighbours of one
            another; numbers below 0 match nobody.
        neighbours: that vote, at most.
        temperature: divisor of the cosine.

    Returns:
        A share, NaN where no sample has a neighbour.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> knn_accuracy(embeddings, torch.tensor([0, 0, 1, 1]), neighbours=1)
        tensor(1.)
    """
    known = labels >= 0
    found = _neighbours(embeddings, labels, known, reference, groups, neighbours, temperature)
    weight, theirs, truth = found
    classes = int(torch.cat([theirs.flatten(), truth]).amax()) + 1 if len(truth) else 1
    votes = weight.new_zeros(len(truth), classes).scatter_add_(1, theirs, weight)
    return (votes.argmax(1) == truth).float().mean()


@torch.no_grad()
def knn_regression(
    embeddings: Tensor,
    targets: Tensor,
    *,
    reference: tuple[Tensor, Tensor] | None = None,
    groups: Tensor | None = None,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Return the mean absolute error of the weighted mean of the nearest neighbours' targets, in their unit.

    Args:
        embeddings: (N, D), the samples to predict.
        targets: (N,); samples with NaN (unknown) take no part.
        reference: see `knn_accuracy`.
        groups: see `knn_accuracy`.
        neighbours: that are averaged, at most.
        temperature: divisor of the cosine.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> knn_regression(embeddings, torch.tensor([60.0, 61.0, 20.0, 21.0]), neighbours=1)
        tensor(1.)
    """
    targets = targets.float()
    weight, theirs, truth = _neighbours(
        embeddings, targets, ~targets.isnan(), reference, groups, neighbours, temperature
    )
    return ((weight * theirs).sum(1) - truth).abs().mean()


def _neighbours(
    embeddings: Tensor,
    values: Tensor,
    known: Tensor,
    reference: tuple[Tensor, Tensor] | None,
    groups: Tensor | None,
    neighbours: int,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (N, k) that sum to 1 and values (N, k) of the neighbours, and the own values (N,)."""
    units, truth = directions(embeddings)[known], values[known]
    if reference is None:
        scores, theirs = (units @ units.T).fill_diagonal_(-torch.inf), truth
        if groups is not None:
            own = groups[known]
            scores = scores.masked_fill((own[:, None] == own) & (own >= 0), -torch.inf)
    else:
        there = reference[1].isfinite() & ((reference[1] >= 0) | values.is_floating_point())
        scores, theirs = units @ directions(reference[0])[there].T, reference[1][there].to(truth)
    best, places = scores.topk(min(neighbours, scores.shape[1]), dim=1)
    some = best.isfinite().any(1)
    weight = (best[some] / temperature).softmax(1)
    return weight, theirs[places[some]], truth[some]
