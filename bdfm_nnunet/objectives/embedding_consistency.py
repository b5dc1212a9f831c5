"""Agreement of the embeddings of two corruptions of an image, and signs of its cheap solution, collapse."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.embedding_measures import effective_rank
from bdfm_nnunet.frequency import at_least_single, full_precision


def consistency_loss(
    features: Tensor,
    *,
    part: Literal["pooled", "last_stage", "both"] = "both",
    stop_gradient: bool = False,
) -> Tensor:
    """Return 1 - cosine of the embeddings of two corruptions of each image, averaged over the images.

    Args:
        features: last stage of the encoder, (2 B, C, *grid); the two corruptions of an image follow one another.
        part: compare the means over the positions ("pooled"), every position ("last_stage"), or "both", the mean of
            the two.
        stop_gradient: whether the second corruption's embedding is a constant target.

    Returns:
        A scalar from 0 to 2, in float32.

    Example:
        >>> features = torch.rand(2, 8, 3, 3, 3)
        >>> bool(consistency_loss(features[:1].repeat(2, 1, 1, 1, 1)).abs() < 1e-6)
        True
        >>> consistency_loss(torch.tensor([[[1.0]], [[-1.0]]]), part="pooled")
        tensor(2.)
    """
    with full_precision(features.device):
        first, second = at_least_single(features).flatten(2).unflatten(0, (-1, 2)).unbind(1)
        if stop_gradient:
            second = second.detach()
        found = []
        if part != "last_stage":
            found.append(functional.cosine_similarity(first.mean(2), second.mean(2), dim=1).mean())
        if part != "pooled":
            found.append(functional.cosine_similarity(first, second, dim=1).mean())
        return 1 - torch.stack(found).mean()


@torch.no_grad()
def embedding_scores(features: Tensor, *, views: int) -> dict[str, Tensor]:
    """Return signs of collapse of the embeddings of all positions of the last stage.

    Args:
        features: (views B, C, *grid); the corruptions of an image follow one another.
        views: corruptions per image, 1 or 2.

    Returns:
        "embedding_spread": root of the total variance of the unit vectors, 0 where all are one and 1 where they fill
        the sphere; "effective_rank" of these vectors; with two views "embedding_cosine", the mean cosine of the pooled
        pairs.

    Example:
        >>> scores = embedding_scores(torch.randn(4, 16, 5, 5, 5), views=2)
        >>> bool(scores["embedding_spread"] > 0.9), bool(scores["effective_rank"] > 15)
        (True, True)
    """
    features = at_least_single(features)
    vectors = functional.normalize(features.flatten(2).movedim(1, 2).flatten(0, 1), dim=1)
    scores = {
        "embedding_spread": vectors.var(0, unbiased=False).sum().sqrt(),
        "effective_rank": effective_rank(vectors).to(features),
    }
    if views > 1:
        scores["embedding_cosine"] = 1 - consistency_loss(features, part="pooled")
    return scores
