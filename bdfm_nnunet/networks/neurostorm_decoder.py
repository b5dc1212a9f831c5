"""The decoder of NeuroSTORM's masked auto-encoder (https://arxiv.org/abs/2506.11167), from the last features alone.

Shapes: B batch, C channels, *grid tokens per axis. Tokens are channels-last, (B, *grid, C).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from bdfm_nnunet.frequency import unpatchify
from bdfm_nnunet.networks.mamba_stages import MambaBlock, MambaStage
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.swin import initialise_linear


class PatchExpanding(nn.Module):
    """The opposite of `PatchMerging`: a token becomes several neighbours, whose channels are normalised.

    Args:
        channels: channels of a token.
        out_channels: channels of each neighbour.
        stride: neighbours per axis.

    Example:
        >>> import torch
        >>> PatchExpanding(8, 4, (2, 2, 1))(torch.rand(1, 3, 3, 5, 8)).shape
        torch.Size([1, 6, 6, 5, 4])
    """

    def __init__(self, channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.expand = nn.Linear(channels, math.prod(stride) * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)
        self.expand.apply(initialise_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, *grid, C) to (B, *finer grid, out_channels)."""
        batch, *grid, _ = tokens.shape
        split = self.expand(tokens).reshape(batch, *grid, *self.stride, -1)
        axes = len(grid)
        order = [axis for i in range(axes) for axis in (1 + i, 1 + axes + i)]
        finer = [size * step for size, step in zip(grid, self.stride, strict=True)]
        normed: Tensor = self.norm(split.permute(0, *order, -1).reshape(batch, *finer, -1))
        return normed


class NeurostormDecoder(nn.Module):
    """Stages of scanned windows on ever finer grids, and a linear layer from each token to the voxels of its patch.

    Args:
        encoder: of which the sizes are mirrored; grids must be whole multiples of one another.
        out_channels: channels of the images; by default those that the encoder reads.

    Example:
        >>> import torch
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(8, 8, 8, 4), patch_size=(2, 2, 2, 1), features=(4, 8), depths=(2, 1),
        ...     merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2),
        ... )
        >>> NeurostormDecoder(encoder)(encoder(torch.zeros(1, 1, 8, 8, 8, 3))[-1]).shape
        torch.Size([1, 1, 8, 8, 8, 3])
    """

    def __init__(self, encoder: NeurostormEncoder, out_channels: int | None = None) -> None:
        super().__init__()
        self.patch_size = encoder.strides[0]
        self.out_channels = encoder.in_channels if out_channels is None else out_channels
        steps = zip(pairwise(reversed(encoder.output_channels)), reversed(encoder.strides[1:]), strict=True)
        self.expanding = nn.ModuleList(PatchExpanding(coarse, fine, stride) for (coarse, fine), stride in steps)
        self.stages = nn.ModuleList(_mirrored(stage, encoder) for stage in [*encoder.stages][-2::-1])
        self.norm = nn.LayerNorm(encoder.output_channels[0])
        self.project = nn.Linear(encoder.output_channels[0], math.prod(self.patch_size) * self.out_channels)
        self.project.apply(initialise_linear)

    def forward(self, features: Tensor) -> Tensor:
        """Map the features of the encoder's last stage, (B, C, *grid), to images (B, C_out, *spatial)."""
        tokens = features.movedim(1, -1)
        for expanding, stage in zip(self.expanding, self.stages, strict=True):
            tokens = stage(expanding(tokens))
        voxels = self.project(self.norm(tokens))
        patches = voxels.flatten(1, -2).unflatten(-1, (self.out_channels, *self.patch_size))
        return unpatchify(patches, tokens.shape[1:-1])


def _mirrored(stage: nn.Module, encoder: NeurostormEncoder) -> MambaStage:
    """Return a stage of the sizes of one of the encoder's."""
    assert isinstance(stage, MambaStage)
    blocks = []
    for block in stage.blocks:
        assert isinstance(block, MambaBlock)
        blocks.append(
            MambaBlock(
                block.channels,
                window_size=encoder.window_size,
                shifted=block.shifted,
                mlp_ratio=block.mlp_ratio,
                both_directions=block.both_directions,
                legacy=block.legacy,
            )
        )
    return MambaStage(blocks, checkpointing=stage.checkpointing)
