"""Projector of contrastive learning: a small perceptron between features and loss, dropped after pre-training.

SimCLR: Chen et al. 2020, https://arxiv.org/abs/2002.05709; as in 3D-Neuro-SimCLR: Kaczmarek et al. 2025,
https://arxiv.org/abs/2509.10620.
"""

from torch import nn


class Projector(nn.Sequential):
    """Two linear layers without bias and a ReLU between them, from (B, in_features) to (B, out).

    The parameters are called `0.weight` (hidden, in_features) and `2.weight` (out, hidden), as in the checkpoints of
    3D-Neuro-SimCLR, whose projector has 512, 512 and 64 features.

    Args:
        in_features: features of an image.
        hidden: features between the layers; by default as many as `in_features`.
        out: features that the loss compares.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> import torch
        >>> projector = Projector(512)
        >>> projector(torch.zeros(2, 512)).shape
        torch.Size([2, 64])
        >>> [(name, tuple(weight.shape)) for name, weight in projector.named_parameters()]
        [('0.weight', (512, 512)), ('2.weight', (64, 512))]
    """

    def __init__(self, in_features: int, hidden: int | None = None, out: int = 64) -> None:
        hidden = in_features if hidden is None else hidden
        if min(in_features, hidden, out) < 1:
            raise ValueError(f"a projector from {in_features} over {hidden} to {out} features: give numbers above 0")
        super().__init__(nn.Linear(in_features, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, out, bias=False))
