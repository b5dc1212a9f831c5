"""The encoder of NeuroSTORM (Wang et al. 2025, https://arxiv.org/abs/2506.11167): shifted windows that are scanned.

It reads images with time as their last axis. Shapes: B batch, C channels, *grid tokens per axis, time last. Tokens are
channels-last (B, *grid, C) inside and channels-first (B, C, *grid) in the output.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bdfm_nnunet.networks.mamba_stages import MambaBlock, MambaStage
from bdfm_nnunet.networks.patch_merging import PatchMerging
from bdfm_nnunet.networks.position_tables import PositionTable
from bdfm_nnunet.networks.swin import PatchEmbedding


class NeurostormEncoder(nn.Module):
    """A pyramid of stages that scan windows of space and time; there is no norm after the last one.

    The defaults are the published sizes. Windows are cut at the border of the image and at its first and last frame,
    and padding has no effect; `legacy` computes what the published code does, where windows join opposite faces.

    Args:
        in_channels: channels of the images.
        image_size: voxels per axis and frames of an image. In space all images must have these sizes; they may have
            other numbers of frames, see `PositionTable`.
        patch_size: voxels per axis of a token.
        features: channels of each stage.
        depths: blocks of each stage.
        window_size: tokens per axis of a window; smaller grids clip it.
        merging: tokens per axis that are merged before each stage after the first.
        mlp_ratio: width of the perceptrons, relative to the channels.
        full_last_window: windows of the last stage hold its whole grid in space and are not shifted.
        both_directions: also scan each window from its end, see `Mamba`; weights of one direction start as they were.
        frame_seconds: seconds from a frame to the next, for positions in seconds, see `PositionTable`.
        table_seconds: seconds between the frames that the positions in time stand for.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        legacy: compute what the published code does.

    Raises:
        ValueError: numbers of stages or axes that do not fit together.

    Example:
        >>> import torch
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(8, 8, 8, 4), patch_size=(2, 2, 2, 1), features=(4, 8), depths=(2, 1),
        ...     merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2),
        ... )
        >>> [tuple(features.shape) for features in encoder(torch.zeros(1, 1, 8, 8, 8, 3))]
        [(1, 4, 4, 4, 4, 3), (1, 8, 2, 2, 2, 3)]
    """

    def __init__(
        self,
        in_channels: int,
        *,
        image_size: Sequence[int] = (96, 96, 96, 20),
        patch_size: Sequence[int] = (6, 6, 6, 1),
        features: Sequence[int] = (36, 72, 144, 288),
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: Sequence[int] = (4, 4, 4, 4),
        merging: Sequence[Sequence[int]] = ((2, 2, 2, 1),) * 3,
        mlp_ratio: float = 4.0,
        full_last_window: bool = True,
        both_directions: bool = False,
        frame_seconds: float | None = None,
        table_seconds: float = 0.8,
        gradient_checkpointing: bool = False,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        _check_axes(features, depths, merging, (image_size, patch_size, window_size))
        self.in_channels, self.legacy = in_channels, legacy
        self.image_size = tuple(image_size)
        self.output_channels = tuple(features)
        self.strides = (tuple(patch_size), *(tuple(stride) for stride in merging))
        self.patch_embed = PatchEmbedding(in_channels, features[0], patch_size)
        self.window_size = tuple(window_size)
        stages: list[MambaStage] = []
        grid = self.image_size
        for i, (channels, depth, stride) in enumerate(zip(features, depths, self.strides, strict=True)):
            grid = tuple(-(-size // step) for size, step in zip(grid, stride, strict=True))
            whole = full_last_window and i == len(depths) - 1
            blocks = [
                MambaBlock(
                    channels,
                    window_size=(*grid[:-1], self.window_size[-1]) if whole else self.window_size,
                    shifted=j % 2 == 1 and not whole,
                    mlp_ratio=mlp_ratio,
                    both_directions=both_directions,
                    legacy=legacy,
                )
                for j in range(depth)
            ]
            positions = PositionTable(channels, grid, frame_seconds=frame_seconds, table_seconds=table_seconds)
            merge = PatchMerging(features[i - 1], channels, stride) if i else None
            stages.append(MambaStage(blocks, merging=merge, positions=positions, checkpointing=gradient_checkpointing))
        self.stages = nn.ModuleList(stages)

    def forward(
        self,
        images: Tensor,
        token_filter: Callable[[Tensor], Tensor] | None = None,
        dropout_keys: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the features of every stage.

        Args:
            images: (B, C_in, *spatial, T).
            token_filter: function applied to the embedded tokens (B, *grid, C) before positions are added, such as
                masking.
            dropout_keys: of each image, (B, 2), for blocks with a `RedundancyDropout`; by default none acts.

        Returns:
            One tensor (B, C, *grid) per stage, finest first.

        Raises:
            ValueError: the images have other channels, axes or sizes in space.
        """
        self._check(images)
        tokens = self.patch_embed(images)
        if token_filter is not None:
            tokens = token_filter(tokens)
        features = []
        for stage in self.stages:
            tokens = stage(tokens, dropout_keys)
            features.append(tokens.movedim(-1, 1))
        return features

    def _check(self, images: Tensor) -> None:
        size = tuple(images.shape[2:])
        if images.shape[1:2] != (self.in_channels,) or len(size) != len(self.image_size) or 0 in size:
            raise ValueError(
                f"images of shape {tuple(images.shape)}, expected a batch of {self.in_channels} channel(s) and "
                f"{len(self.image_size)} axes, time last"
            )
        if size[:-1] != self.image_size[:-1]:
            raise ValueError(
                f"images of {size[:-1]} voxels, this network reads {self.image_size[:-1]}: crop or pad them"
            )


def _check_axes(
    features: Sequence[int], depths: Sequence[int], merging: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]
) -> None:
    if not len(features) == len(depths) == len(merging) + 1:
        raise ValueError(
            f"an encoder of {len(features)} stages needs as many depths ({len(depths)}) and one merging less "
            f"({len(merging)})"
        )
    axes = len(sizes[0])
    if axes < 2 or any(len(size) != axes for size in (*sizes, *merging)):
        raise ValueError(
            f"image, patch, window and merging must have the same axes, time last, got {[*sizes, *merging]}"
        )
    if any(step[-1] != 1 for step in (sizes[1], *merging)):
        raise ValueError(f"a token is one frame: patch {tuple(sizes[1])} and merging {merging} must be 1 along time")
