"""MONAI's Swin transformer, transcribed slowly: every window is cut out, masked and attended to by itself.

It has MONAI's names and reads images (B, C, x, y, z). Checked against MONAI 1.6.1 for its two orders of merging, and
for the one before by putting those eight slices into its class.
"""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

OLD = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
NEW = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
SLICES = {"monai-1.4": OLD, "monai-1.5": NEW, "mergingv2": tuple(product((0, 1), repeat=3))}


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 3, heads))
        points = torch.tensor([*product(range(window), repeat=3)])
        offsets = points[:, None] - points[None] + window - 1
        self.register_buffer(
            "relative_position_index", offsets @ torch.tensor([(2 * window - 1) ** 2, 2 * window - 1, 1])
        )
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, regions: Tensor) -> Tensor:
        """Attend inside one window, (N, C), whose tokens see those of their own region, (N)."""
        count, channels = tokens.shape
        query, key, value = self.qkv(tokens).reshape(count, 3, self.heads, -1).permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / (channels // self.heads) ** 0.5
        index = self.relative_position_index[:count, :count]  # type: ignore[index]
        scores = scores + self.relative_position_bias_table[index].permute(2, 0, 1)
        scores = scores + torch.where(regions[:, None] == regions[None], 0.0, -100.0)
        return self.proj((scores.softmax(-1) @ value).transpose(0, 1).reshape(count, channels))


class Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear2(functional.gelu(self.linear1(tokens)))


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = Attention(channels, heads, window), Mlp(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Tokens (x, y, z, C): windows no larger than the grid, zeros up to whole windows, rolled every second time."""
        grid = tokens.shape[:3]
        sides = [min(self.window, size) for size in grid]
        shifts = [self.window // 2 if self.shifted and size > self.window else 0 for size in grid]
        padding = [n for size, side in reversed([*zip(grid, sides)]) for n in (0, -size % side)]
        padded = functional.pad(tokens, [0, 0, *padding])
        regions = torch.zeros(padded.shape[:3], dtype=torch.long)
        if any(shifts):
            for axis, (side, shift) in enumerate(zip(sides, shifts)):
                size = padded.shape[axis]
                part = torch.tensor([0 if at < size - side else 1 if at < size - shift else 2 for at in range(size)])
                regions = 3 * regions + part.reshape([-1 if i == axis else 1 for i in range(3)])
        rolled = torch.roll(padded, [-shift for shift in shifts], (0, 1, 2))
        attended = torch.empty_like(rolled)
        for start in product(*(range(0, size, side) for size, side in zip(padded.shape, sides))):
            place = tuple(slice(first, first + side) for first, side in zip(start, sides))
            window = rolled[place]
            found = self.attn(window.flatten(0, 2), regions[place].flatten())
            attended[place] = found.reshape(window.shape)
        return torch.roll(attended, shifts, (0, 1, 2))[tuple(slice(size) for size in grid)]


class Merging(nn.Module):
    def __init__(self, channels: int, order: str) -> None:
        super().__init__()
        self.slices = SLICES[order]
        self.norm, self.reduction = nn.LayerNorm(8 * channels), nn.Linear(8 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = functional.pad(tokens, [0, 0, *(n for size in reversed(tokens.shape[:3]) for n in (0, size % 2))])
        return self.reduction(self.norm(torch.cat([tokens[x::2, y::2, z::2] for x, y, z in self.slices], -1)))


class Stage(nn.Module):
    def __init__(self, channels: int, depth: int, heads: int, window: int, order: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, heads, window, shifted=at % 2 == 1) for at in range(depth))
        self.downsample = Merging(channels, order)


class MonaiSwin(nn.Module):
    """`swinViT` of MONAI's SwinUNETR."""

    def __init__(
        self, inputs: int, *, features: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int, order: str
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(inputs, features, 2, 2)
        for at, (depth, each) in enumerate(zip(depths, heads)):
            stage = Stage(features * 2**at, depth, each, window, order)
            setattr(self, f"layers{at + 1}", nn.ModuleList([stage]))
        self.stages = len(depths)

    def features(self, image: Tensor) -> list[Tensor]:
        """Features (C, x, y, z) after the blocks of each stage, and after the last merging."""
        tokens = self.patch_embed.proj(image)[0].movedim(0, -1)
        found = []
        for at in range(self.stages):
            stage = getattr(self, f"layers{at + 1}")[0]
            for block in stage.blocks:
                tokens = block(tokens)
            found.append(tokens.movedim(-1, 0))
            tokens = stage.downsample(tokens)
        return [*found, tokens.movedim(-1, 0)]
