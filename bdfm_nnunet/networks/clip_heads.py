"""What heads of NeuroSTORM (Wang et al. 2025, https://arxiv.org/abs/2506.11167) make of the features of a clip.

Three versions are published. Each ends in one linear layer, which is the caller's; in front of it stands

- v1: the mean over all places and frames,
- v2: that mean after a hidden layer of four times the channels, without a non-linearity,
- v3: a learned token that a transformer has let look at all places and frames.

Shapes: features (B, C, *grid, T), vectors (B, F).
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.networks.position_tables import spread

ClipHead = Literal["v1", "v2", "v3"]
HIDDEN = 4
"""Width of the hidden layer of v2, relative to the channels."""


class MeanOfClip(nn.Module):
    """The mean over all places and frames, which is all that v1 has in front of its linear layer.

    Example:
        >>> MeanOfClip()(torch.ones(2, 8, 2, 2, 2, 5)).shape
        torch.Size([2, 8])
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C)."""
        return features.flatten(2).float().mean(2)


class HiddenMean(nn.Linear):
    """The mean over all places and frames after a linear layer of four times the channels (v2).

    Args:
        channels: channels of the features.

    Example:
        >>> HiddenMean(8)(torch.ones(2, 8, 2, 2, 2, 5)).shape
        torch.Size([2, 32])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, HIDDEN * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, 4 C)."""
        return super().forward(features.flatten(2).float().mean(2))


class ClassToken(nn.Module):
    """A learned token after a transformer over it and all places and frames of a clip (v3).

    Layers are those of the published head: six, eight heads of attention, LayerNorm after each shortcut. Its positions
    were for clips of one length alone; here a shorter clip takes those of the first frames, and the frames of a longer
    one are spread over them. In its files until April 2026 the transformer compared the clips of a batch and not the
    places of a clip; here the places are compared whichever file the weights are from.

    Args:
        channels: channels of the features, a multiple of `heads`.
        grid: places per axis, and frames, of the clips that the positions are for.
        layers: layers of the transformer.
        heads: heads of its attention.
        dropout: in the transformer, in training.

    Raises:
        ValueError: the channels are no multiple of the heads.

    Example:
        >>> token = ClassToken(16, (2, 2, 2, 4), layers=1)
        >>> [tuple(token(torch.ones(3, 16, 2, 2, 2, frames)).shape) for frames in (1, 4, 9)]
        [(3, 16), (3, 16), (3, 16)]
    """

    def __init__(
        self, channels: int, grid: Sequence[int], *, layers: int = 6, heads: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"head v3 has {heads} heads of attention, and {channels} channels are no multiple of them")
        self.token = nn.Parameter(torch.empty(channels).normal_(std=0.02))
        self.token_position = nn.Parameter(torch.empty(channels).normal_(std=0.02))
        self.positions = nn.Parameter(torch.empty(*grid, channels).normal_(std=0.02))
        layer = [
            nn.TransformerEncoderLayer(channels, heads, HIDDEN * channels, dropout, batch_first=True)
            for _ in range(layers)
        ]
        self.layers = nn.ModuleList(layer)
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C).

        Raises:
            ValueError: the features have other axes or sizes in space.
        """
        *space, frames = features.shape[2:]
        if tuple(space) != self.positions.shape[:-2]:
            raise ValueError(f"features of {tuple(space)} places, this head reads {tuple(self.positions.shape[:-2])}")
        places = features.float().movedim(1, -1) + self._at_frames(frames)
        first = (self.token + self.token_position).expand(len(places), 1, -1)
        tokens = torch.cat([first, places.flatten(1, -2)], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        return cast(Tensor, self.norm(tokens[:, 0]))

    def _at_frames(self, frames: int) -> Tensor:
        *space, rows = self.positions.shape[:-1]
        return self.positions[..., :frames, :] if frames <= rows else spread(self.positions, (*space, frames))


class EmbeddingHead(nn.Module):
    """The published contrastive head: a linear map of the mean without bias, BatchNorm, and length 1.

    Args:
        channels: channels of the features.
        out: numbers that are compared.

    Example:
        >>> embedded = EmbeddingHead(8).eval()(torch.ones(2, 8, 2, 2, 2, 5))
        >>> [f"{length:.3f}" for length in embedded.norm(dim=1).tolist()]
        ['1.000', '1.000']
    """

    def __init__(self, channels: int, out: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, out, bias=False)
        self.bn1 = nn.BatchNorm1d(out)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, out) of length 1."""
        return functional.normalize(self.bn1(self.fc1(features.flatten(2).float().mean(2))), dim=1)


def clip_neck(head: ClipHead, channels: int, grid: Sequence[int], *, dropout: float = 0.0) -> tuple[nn.Module, int]:
    """Return what a head has in front of its linear layer, and how many numbers that gives.

    Args:
        head: its version.
        channels: channels of the features.
        grid: places per axis, and frames, of the clips.
        dropout: of v3, in training.

    Raises:
        ValueError: see `ClassToken`.
    """
    if head == "v1":
        return MeanOfClip(), channels
    if head == "v2":
        return HiddenMean(channels), HIDDEN * channels
    return ClassToken(channels, grid, dropout=dropout), channels
