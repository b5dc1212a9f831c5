"""The encoder of a Primus, a plain vision transformer for volumes, in the shape that all our encoders have.

Primus: Wald et al. 2025, https://arxiv.org/abs/2503.01835. Its modules come from dynamic-network-architectures, which
is not imported here.

Shapes: B batch, T tokens of the grid, N visible tokens of a sample, R register tokens, C channels of a token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.networks.recomputing import recomputed
from bdfm_nnunet.networks.visible_tokens import VisibleTokens

STRIDE_OF_STEMS = 2
"""Stride of each stage of the convolutional patch embeddings of Primus V2 and V3."""


class PrimusEncoder(nn.Module):
    """Patch embedding, positions and attention blocks of a Primus: an encoder of one stage.

    It holds the modules that it is given, under the names that they have in a Primus. Tokens are in raster order, the
    last axis fastest, as in dynamic-network-architectures since June 2025.

    Args:
        down_projection: embeds images (B, C_in, *spatial) as (B, C, *grid).
        eva: holds `pos_embed` (1, R + T, C) or None, `rope` or None, `blocks` and `norm`.
        register_tokens: (1, R, C), or None.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Attributes:
        output_channels: channels of the tokens, as a tuple of one.
        strides: voxels per axis of a token, as a tuple of one.
        grid: tokens per axis for which the positions are made; None where the network does not tell.
        masks_tokens: whether a token depends on its own voxels alone, so that masking tokens hides them. The patch
            embeddings of V2 and V3 look beyond.
    """

    def __init__(
        self,
        down_projection: nn.Module,
        eva: nn.Module,
        register_tokens: nn.Parameter | None = None,
        *,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.down_projection: Any = down_projection
        self.eva: Any = eva
        self.register_tokens = register_tokens
        self.checkpointing = gradient_checkpointing
        self.output_channels = (int(eva.embed_dim),)  # type: ignore[arg-type]
        projection = getattr(down_projection, "proj", None)
        self.masks_tokens = projection is not None
        stems: Any = getattr(down_projection, "stages", ())
        patch = (STRIDE_OF_STEMS ** len(stems),) * 3 if projection is None else tuple(projection.stride)
        self.strides = (patch,)
        grid = getattr(self.eva.rope, "feat_shape", None)
        self.grid = None if grid is None else tuple(int(size) for size in grid)

    @classmethod
    def of(cls, network: Any, **settings: Any) -> "PrimusEncoder":
        """Return the encoder of a Primus of dynamic-network-architectures; the two share their modules."""
        return cls(network.down_projection, network.eva, network.register_tokens, **settings)

    def image_kernels(self) -> list[nn.Parameter]:
        """Return the kernels that read the images; the residual stem of V2 and V3 has another one in its shortcut."""
        if self.masks_tokens:
            return [self.down_projection.proj.weight]
        block = self.down_projection.stem.blocks[0]
        readers = [part for part in (block.conv1, block.skip) if isinstance(part, nn.Module)]
        return [kernel for part in readers for kernel in part.parameters() if kernel.ndim > 2]

    def forward(
        self,
        images: Tensor,
        token_filter: Callable[[Tensor], Tensor] | None = None,
        *,
        visible: VisibleTokens | None = None,
    ) -> list[Tensor]:
        """Return the features of the one stage.

        Args:
            images: (B, C_in, *spatial).
            token_filter: function applied to the embedded tokens (B, *grid, C) before the first block, such as masking.
            visible: tokens to attend to; by default all.

        Returns:
            One tensor (B, C, *grid), or (B, N, C) of visible tokens in their order.

        Raises:
            ValueError: the images are of another size than the positions, or only visible tokens are wanted of a patch
                embedding that looks beyond a token.
        """
        tokens = self._embedded(images)
        grid = tokens.shape[1:-1]
        if visible is None:
            tokens = tokens if token_filter is None else token_filter(tokens)
            return [self._attended(tokens.flatten(1, -2)).unflatten(1, grid).movedim(-1, 1)]
        if not self.masks_tokens:
            raise ValueError("this patch embedding looks beyond a token: visible tokens cannot be computed alone")
        where = visible.stages[0]
        shown = tokens.flatten(0, -2).index_select(0, where.flat).unflatten(0, (len(images), -1))
        return [self._attended(shown, where.numbers.to(images.device))]

    def _embedded(self, images: Tensor) -> Tensor:
        """Return the tokens of images, (B, *grid, C)."""
        tokens: Tensor = self.down_projection(images).movedim(1, -1).contiguous()
        if self.grid is not None and tuple(tokens.shape[1:-1]) != self.grid:
            expected = tuple(size * step for size, step in zip(self.grid, self.strides[0], strict=True))
            raise ValueError(
                f"images of {tuple(images.shape[2:])} voxels, but this Primus has positions for {expected}: "
                "patch_size and arch_kwargs.input_shape of the plans must agree"
            )
        return tokens

    def _attended(self, tokens: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Run the blocks on tokens (B, N, C).

        Args:
            tokens: embedded tokens.
            numbers: their raster numbers on the grid, (B, N); None if all are given.
        """
        eva, registers = self.eva, self.register_tokens
        first = 0 if registers is None else registers.shape[1]
        rope = None if eva.rope is None else eva.rope.get_embed()
        if rope is not None and numbers is not None:
            rope = rope[numbers].unsqueeze(1)  # the same for all heads
        if eva.pos_embed is not None:
            places = eva.pos_embed[:, first:]
            tokens = tokens + (places if numbers is None else places[0, numbers])
        if registers is not None:
            placed = registers if eva.pos_embed is None else registers + eva.pos_embed[:, :first]
            tokens = torch.cat([placed.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = eva.pos_drop(tokens)
        for block in eva.blocks:
            run = partial(block, rope=rope)
            tokens = recomputed(run, tokens) if self.checkpointing and self.training else run(tokens)
        return eva.norm(tokens)[:, first:]
