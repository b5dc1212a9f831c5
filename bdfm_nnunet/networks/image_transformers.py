"""Two-dimensional transformers whose weights others release: a plain ViT with a neck, and Swin V2 of torchvision.

Shapes: B images, C channels, H and W tokens. The names of parameters are those of the released files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_CHANNELS = 64
"""Channels of an attention head of the released ViT."""


class ImageTransformer(nn.Module):
    """Vision transformer (https://arxiv.org/abs/2010.11929) with attention over all tokens and a convolutional neck.

    Its layout is that of the image encoder of Segment Anything (https://arxiv.org/abs/2304.02643) without windows and
    relative positions, which Frepa has for its ViT-B.

    Args:
        in_channels: channels of the images.
        channels: channels of the tokens, a multiple of `HEAD_CHANNELS`.
        depth: blocks.
        grid: tokens per axis.
        patch: pixels per axis of a token.
        out_channels: channels of the neck.

    Attributes:
        in_channels: channels of the images.
        size: pixels per axis of the images.

    Example:
        >>> network = ImageTransformer(4, 128, depth=2, grid=4, patch=8, out_channels=16)
        >>> network(torch.rand(2, 4, network.size, network.size)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(
        self, in_channels: int, channels: int, *, depth: int, grid: int = 32, patch: int = 16, out_channels: int = 128
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.size = grid * patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, channels, patch, stride=patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, channels))
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(depth))
        self.neck = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, bias=False),
            _PixelNorm(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            _PixelNorm(out_channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, size, size) to features (B, out_channels, H, W)."""
        tokens = self.patch_embed["proj"](images).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.neck(tokens.movedim(-1, 1))
        return features


class _PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(channels, 4 * channels), "lin2": nn.Linear(4 * channels, channels)})

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        wide = functional.gelu(self.mlp["lin1"](self.norm2(tokens)))
        return tokens + self.mlp["lin2"](wide)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, height, width, channels = tokens.shape
        parts = self.qkv(tokens).reshape(batch, height * width, 3, -1, HEAD_CHANNELS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, height, width, channels))
        return joined


class ShiftedWindowTransformer(nn.Module):
    """The features of torchvision's Swin Transformer V2 (https://arxiv.org/abs/2111.09883), for any input channels.

    Args:
        in_channels: channels of the images.
        channels: channels of the first tokens.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: tokens per axis of a window.
        size: pixels per axis of the images.

    Example:
        >>> network = ShiftedWindowTransformer(4, 8, depths=(1, 1), heads=(2, 4), window=4, size=64)
        >>> network(torch.rand(2, 4, 64, 64)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int = 8,
        size: int = 512,
    ) -> None:
        super().__init__()
        from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

        self.in_channels = in_channels
        self.size = size
        whole = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=channels,
            depths=list(depths),
            num_heads=list(heads),
            window_size=[window, window],
            stochastic_depth_prob=0.0,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        )
        self.features = whole.features
        self.features[0][0] = nn.Conv2d(in_channels, channels, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, size, size) to features of the last stage (B, C', H, W)."""
        features: Tensor = self.features(images).movedim(-1, 1)
        return features
