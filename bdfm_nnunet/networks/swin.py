"""Shifted-window transformer encoder (Swin, Liu et al. 2021, https://arxiv.org/abs/2103.14030), in any number of axes.

Shapes: B batch, C channels, *grid tokens per axis, N tokens of a window, W windows of an image, H heads. Tokens are
channels-last (B, *grid, C) inside and channels-first (B, C, *grid) in the output. Where only the visible tokens are
computed, they are (B, N, C), in the order of a `VisibleStage`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.networks.attention import window_attention
from bdfm_nnunet.networks.attention_windows import Legacy, clipped, half_shift, window_groups
from bdfm_nnunet.networks.patch_merging import MergingOrder, PatchMerging
from bdfm_nnunet.networks.recomputed_layers import normed_perceptron
from bdfm_nnunet.networks.recomputing import recomputed
from bdfm_nnunet.networks.visible_attention import visible_attention
from bdfm_nnunet.networks.visible_tokens import VisibleStage, VisibleTokens

TokenFilter = Callable[[Tensor], Tensor]


class PatchEmbedding(nn.Module):
    """Embedding of each patch of voxels as a token: a convolution whose stride is its kernel size."""

    def __init__(self, in_channels: int, channels: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.weight = nn.Parameter(torch.empty(channels, in_channels, *patch_size))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, *grid, C); sizes that are not multiples of the patch are padded with zeros."""
        short = [(-size) % step for size, step in zip(images.shape[2:], self.patch_size, strict=True)]
        if any(short):
            images = functional.pad(images, [n for missing in reversed(short) for n in (0, missing)])
        grid = [size // step for size, step in zip(images.shape[2:], self.patch_size, strict=True)]
        return self._embed(patchify(images, self.patch_size)).reshape(len(images), *grid, -1)

    def embed_visible(self, images: Tensor, where: VisibleStage) -> Tensor:
        """Map (B, C_in, *spatial) to the visible tokens, (B, N, C)."""
        patches = patchify(images, self.patch_size).flatten(0, 1).index_select(0, where.flat)
        return self._embed(patches.unflatten(0, (len(images), -1)))

    def _embed(self, patches: Tensor) -> Tensor:
        return functional.linear(patches.flatten(2), self.weight.flatten(1), self.bias)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position.

    Args:
        channels: channels of a token.
        window_size: tokens per axis of the largest window; it sets the size of the bias table.
        num_heads: number of heads; must divide the channels.
        legacy: read the bias table of windows clipped to a smaller grid as BDFM's and MONAI's code does: by the raster
            number of their tokens in the *unclipped* window instead of by relative position; "reversed" counts the
            raster with the first axis fastest, as for weights that were turned from axes in the reversed order.
    """

    def __init__(self, channels: int, window_size: Sequence[int], num_heads: int, *, legacy: Legacy = False) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels cannot be divided among {num_heads} heads")
        self.window_size = tuple(window_size)
        self.num_heads = num_heads
        self.legacy = legacy
        entries = math.prod(2 * size - 1 for size in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(entries, num_heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, shift: tuple[int, ...]) -> Tensor:
        """Attend inside the windows of a grid.

        Args:
            tokens: (B, *grid, C).
            shift: shift of the windows in tokens, per axis.
        """
        batch, *grid, channels = tokens.shape
        window = clipped(self.window_size, grid)
        groups = window_groups(tuple(grid), window, shift, self.window_size, self.legacy, tokens.device)
        count = math.prod(grid)
        flat = tokens.reshape(batch, count, channels)
        if any(group.padded for group in groups):
            flat = functional.pad(flat, (0, 0, 0, 1))
        biases = [self.relative_bias(group.index) for group in groups]
        attended = window_attention(self.qkv(flat), groups, biases)[:, :count]
        return self.proj(attended).reshape(tokens.shape)

    def attend_visible(self, tokens: Tensor, norm: nn.LayerNorm, shift: tuple[int, ...], where: VisibleStage) -> Tensor:
        """Attend inside the windows of a grid of which only the visible tokens are given, (B, N, C), after a norm."""
        pieces = where.pieces(clipped(self.window_size, where.grid), shift, self.window_size)
        table = self.relative_position_bias_table.T
        attended = visible_attention(tokens.flatten(0, 1), norm, self.qkv, pieces, table)
        return self.proj(attended).reshape(tokens.shape)

    def relative_bias(self, index: Tensor) -> Tensor:
        """Return the bias of each pair of tokens, (H, N, N), from their rows of the table, (N, N)."""
        # along the last axis: its gradient is summed up twenty times faster than that of rows
        return self.relative_position_bias_table.T.index_select(1, index.flatten()).reshape(-1, *index.shape)


class Perceptron(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        hidden = self[0](tokens)
        weight, bias = (parameter.to(hidden.dtype) for parameter in (self[2].weight, self[2].bias))
        out: Tensor = _GeluLinear.apply(hidden, weight, bias)
        return out


class _GeluLinear(torch.autograd.Function):
    """GELU and linear layer that keep only their input.

    The GELU is computed again in the backward pass, because its output is four times the size of the tokens.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map (..., hidden) to (..., C)."""
        ctx.save_for_backward(hidden, weight)
        return functional.linear(functional.gelu(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of input, weight and bias."""
        hidden, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_weight = rows.T @ functional.gelu(hidden).flatten(0, -2)
        of_hidden = (rows @ weight).reshape(hidden.shape)
        return torch.ops.aten.gelu_backward(of_hidden, hidden), of_weight, rows.sum(0)


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, each after a LayerNorm and with a shortcut."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        window_size: Sequence[int],
        shifted: bool,
        mlp_ratio: float,
        drop_path: float,
        legacy: Legacy,
    ) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        self.shifted = shifted
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window_size, num_heads, legacy=legacy)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels, int(channels * mlp_ratio))

    def forward(self, tokens: Tensor, where: VisibleStage | None = None) -> Tensor:
        """Map (B, *grid, C), or visible tokens (B, N, C) and where they are, to the same shape."""
        if where is not None:
            attended = self.attn.attend_visible(tokens, self.norm1, self._shift(where.grid), where)
            tokens = tokens + self._drop(attended)
            return tokens + self._drop(normed_perceptron(tokens, self.norm2, self.mlp))
        tokens = tokens + self._drop(self.attn(self.norm1(tokens), self._shift(tokens.shape[1:-1])))
        return tokens + self._drop(self.mlp(self.norm2(tokens)))

    def _shift(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Return the shift of the windows in tokens, per axis."""
        return half_shift(self.window_size, grid) if self.shifted else (0,) * len(grid)

    def _drop(self, branch: Tensor) -> Tensor:
        """Drop the branch for some samples, scaled to keep the mean (https://arxiv.org/abs/1603.09382)."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        kept = torch.rand(len(branch), *(1,) * (branch.ndim - 1), device=branch.device) < keep
        return branch * kept / keep


class SwinStage(nn.Module):
    """Blocks on one grid, every second one with shifted windows, after an optional merging of tokens."""

    def __init__(self, blocks: Sequence[SwinBlock], merging: PatchMerging | None, *, checkpointing: bool) -> None:
        super().__init__()
        self.merging = merging
        self.blocks = nn.ModuleList(blocks)
        self.checkpointing = checkpointing

    def forward(self, tokens: Tensor, where: VisibleStage | None = None) -> Tensor:
        """Map (B, *grid, C) to (B, *grid after merging, C of this stage); or visible tokens (B, N, C), see `where`.

        Args:
            tokens: tokens of the stage before.
            where: place of the visible tokens of this stage; None if all are given.
        """
        if self.merging is not None:
            tokens = self.merging(tokens) if where is None else self.merging.merge_visible(tokens)
        for block in self.blocks:
            function = block if where is None else partial(block, where=where)
            tokens = recomputed(function, tokens) if self.checkpointing and self.training else function(tokens)
        return tokens


class SwinEncoder(nn.Module):
    """A pyramid of Swin stages over images with any number of axes and any size.

    Args:
        in_channels: channels of the images.
        patch_size: voxels per axis of a token.
        features: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: tokens per axis of a window; smaller grids clip it.
        merging: tokens per axis that are merged before each stage after the first, one tuple per stage.
        mlp_ratio: width of the perceptrons, relative to the channels.
        drop_path_rate: probability of dropping the last block; it grows linearly from 0 at the first block.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        legacy: attention as in BDFM's and MONAI's code: padding takes part, and clipped windows misread the bias table;
            "reversed" for weights of MONAI, whose axes are in the reversed order.
        merging_order: neighbours that are merged, "swin" or "monai-1.4", see `PatchMerging`.

    Example:
        >>> encoder = SwinEncoder(
        ...     1, patch_size=(4, 4, 4), features=(24, 48), depths=(2, 2), num_heads=(2, 4), window_size=(4, 4, 4),
        ...     merging=((2, 2, 2),),
        ... )
        >>> [tuple(features.shape) for features in encoder(torch.zeros(1, 1, 32, 32, 32))]
        [(1, 24, 8, 8, 8), (1, 48, 4, 4, 4)]
    """

    def __init__(
        self,
        in_channels: int,
        *,
        patch_size: Sequence[int],
        features: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: Sequence[int],
        merging: Sequence[Sequence[int]],
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        gradient_checkpointing: bool = False,
        legacy: Legacy = False,
        merging_order: MergingOrder = "swin",
    ) -> None:
        super().__init__()
        if legacy not in (False, True, "reversed"):
            raise ValueError(f"legacy is {legacy!r}, expected true, false or 'reversed'")
        if not len(features) == len(depths) == len(num_heads) == len(merging) + 1:
            raise ValueError(
                f"a Swin encoder of {len(features)} stages needs as many depths ({len(depths)}) and heads "
                f"({len(num_heads)}) and one merging less ({len(merging)})"
            )
        if any(len(stride) != len(patch_size) for stride in (window_size, *merging)):
            raise ValueError(f"window and merging must have {len(patch_size)} axes, as the patch size {patch_size}")
        self.in_channels = in_channels
        self.legacy = legacy
        self.output_channels = tuple(features)
        self.strides = (tuple(patch_size), *(tuple(stride) for stride in merging))
        self.patch_embed = PatchEmbedding(in_channels, features[0], patch_size)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        stages = []
        for i, (channels, depth, heads) in enumerate(zip(features, depths, num_heads, strict=True)):
            blocks = [
                SwinBlock(
                    channels,
                    heads,
                    window_size=window_size,
                    shifted=j % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    drop_path=rates[sum(depths[:i]) + j],
                    legacy=legacy,
                )
                for j in range(depth)
            ]
            merge = PatchMerging(features[i - 1], channels, merging[i - 1], order=merging_order) if i else None
            stages.append(SwinStage(blocks, merge, checkpointing=gradient_checkpointing))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(features[-1])
        self.apply(initialise_linear)

    def forward(
        self, images: Tensor, token_filter: TokenFilter | None = None, *, visible: VisibleTokens | None = None
    ) -> list[Tensor]:
        """Return the features of every stage.

        Args:
            images: (B, C_in, *spatial).
            token_filter: function applied to the embedded tokens (B, *grid, C) before the first stage, such as masking.
            visible: tokens to compute; no other token is embedded or attended to. By default all.

        Returns:
            One tensor (B, C, *grid) per stage, finest first, or (B, N, C) of visible tokens in the order of their
            `VisibleStage`; the last one after the encoder's final norm.

        Raises:
            ValueError: only the visible tokens are wanted, but attention is the legacy one, whose windows hold padding.
        """
        if visible is not None:
            return self._encode_visible(images, visible)
        tokens = self.patch_embed(images)
        if token_filter is not None:
            tokens = token_filter(tokens)
        features = []
        for stage in self.stages:
            tokens = stage(tokens)
            features.append(tokens)
        features[-1] = self.norm(features[-1])
        return [feature.movedim(-1, 1) for feature in features]

    def _encode_visible(self, images: Tensor, visible: VisibleTokens) -> list[Tensor]:
        if self.legacy:
            raise ValueError("legacy attention lets padding take part: it cannot be computed for visible tokens only")
        tokens = self.patch_embed.embed_visible(images, visible.stages[0])
        features = []
        for stage, where in zip(self.stages, visible.stages, strict=True):
            tokens = stage(tokens, where)
            features.append(tokens)
        features[-1] = self.norm(features[-1])
        return features


def initialise_linear(module: nn.Module) -> None:
    """Give a linear layer a truncated normal start of standard deviation 0.02; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
