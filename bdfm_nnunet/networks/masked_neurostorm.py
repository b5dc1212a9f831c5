"""NeuroSTORM's masked auto-encoder (https://arxiv.org/abs/2506.11167): tokens are hidden, voxels are rebuilt.

Shapes: B batch, C channels, *grid tokens per axis, time last. Masks are boolean (B, *grid), True = masked.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.neurostorm_decoder import NeurostormDecoder

TokenKind = Literal["window", "random", "atlas"]
"""Which of the learned tokens stands for what is hidden: one per place in a window, or one of two for all places."""


class MaskTokens(nn.Module):
    """What stands in the place of hidden tokens: a vector for each place in a window, or one for all.

    Args:
        channels: channels of a token.
        window_size: tokens per axis of a window.

    Example:
        >>> tokens = MaskTokens(3, (2, 2))
        >>> tokens(torch.ones(1, 4, 2, 3), torch.tensor([[[True, False]] * 4]))[0, 0]
        tensor([[0., 0., 0.],
                [1., 1., 1.]], grad_fn=<SelectBackward0>)
    """

    def __init__(self, channels: int, window_size: Sequence[int]) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        self.window = nn.Parameter(torch.zeros(math.prod(window_size), channels))
        self.random = nn.Parameter(torch.zeros(channels))
        self.atlas = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor, mask: Tensor, kind: TokenKind = "window") -> Tensor:
        """Replace the tokens (B, *grid, C) that a mask hides.

        Raises:
            ValueError: the mask has another shape.
        """
        if mask.shape != tokens.shape[:-1]:
            raise ValueError(f"a mask of shape {tuple(mask.shape)}, expected one of tokens, {tuple(tokens.shape[:-1])}")
        hidden: Tensor = self._of_places(tokens.shape[1:-1]) if kind == "window" else getattr(self, kind)
        return torch.where(mask.unsqueeze(-1), hidden.to(tokens.dtype), tokens)

    def _of_places(self, grid: Sequence[int]) -> Tensor:
        """Return for each token of a grid the vector of its place in its window, (*grid, C)."""
        number = torch.zeros((), dtype=torch.long, device=self.window.device)
        for size, extent in zip(grid, self.window_size, strict=True):
            number = number[..., None] * extent + torch.arange(size, device=number.device) % extent
        return self.window[number]


class MaskedNeurostorm(nn.Module):
    """Encoder, mask tokens and decoder.

    Args:
        encoder: the encoder.
        decoder: None leaves out decoder and mask tokens, as in files of a fine-tuned encoder.

    Example:
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(8, 8, 8, 4), patch_size=(2, 2, 2, 1), features=(4, 8), depths=(2, 1),
        ...     merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2),
        ... )
        >>> model = MaskedNeurostorm(encoder)
        >>> mask = torch.rand(1, 4, 4, 4, 4) < 0.5
        >>> model.reconstruct(torch.rand(1, 1, 8, 8, 8, 4), mask=mask).shape
        torch.Size([1, 1, 8, 8, 8, 4])
    """

    def __init__(self, encoder: NeurostormEncoder, *, decoder: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_tokens = MaskTokens(encoder.output_channels[0], encoder.window_size) if decoder else None
        self.decoder = NeurostormDecoder(encoder) if decoder else None

    def forward(self, images: Tensor, mask: Tensor, *, kind: TokenKind = "window") -> tuple[list[Tensor], Tensor]:
        """Return the features of masked images, one tensor per stage, and the images rebuilt from the last ones.

        Args:
            images: (B, C_in, *spatial).
            mask: boolean (B, *grid), True = masked.
            kind: which of the learned tokens stands for what is hidden.

        Raises:
            ValueError: there is no decoder, or the mask has another shape.
        """
        tokens = self.mask_tokens
        if tokens is None or self.decoder is None:
            raise ValueError("this model is an encoder alone: it has no decoder to rebuild images with")
        features = self.encoder(images, lambda embedded: tokens(embedded, mask, kind))
        return features, self.decoder(features[-1])

    def reconstruct(self, images: Tensor, *, mask: Tensor, kind: TokenKind = "window") -> Tensor:
        """Return the images (B, C_in, *spatial), rebuilt from what a mask leaves visible; see `forward`."""
        rebuilt: Tensor = self(images, mask, kind=kind)[1]
        return rebuilt
