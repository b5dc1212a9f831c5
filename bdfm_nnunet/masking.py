"""What is hidden from the encoder, and what stands in its place. Masks are boolean grids of patches: True = masked."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import MaskTokenMode


def block_mask(
    batch: int,
    grid: Sequence[int],
    *,
    ratio: float,
    block_size: int | Sequence[int] = 1,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws masks that hide a fixed share of each sample's blocks, uniformly at random.

    Args:
        batch: number of samples, each with a mask of its own.
        grid: patches per axis.
        ratio: share of the blocks that is masked; at least one block is masked and one stays visible.
        block_size: patches per axis that are masked together. A grid that is no multiple of it ends in cut-off blocks.
        generator: source of the randomness, on the generator's own device.
        device: where the mask is wanted.

    Returns:
        Boolean (B, *grid), True = masked.

    Raises:
        ValueError: the ratio is not inside (0, 1).
        InputError: the whole grid is a single block.
    """
    blocks = per_axis(block_size, len(grid))
    coarse = [math.ceil(size / block) for size, block in zip(grid, blocks, strict=True)]
    count = math.prod(coarse)
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio is {ratio}, expected a number between 0 and 1, both excluded")
    if count < 2:
        raise InputError(
            f"a grid of {tuple(grid)} patches is a single block of {blocks}: choose a smaller pretraining.block_size "
            "or a larger patch_size"
        )
    hidden = min(max(round(ratio * count), 1), count - 1)
    noise = torch.rand(batch, count, generator=generator, device=generator.device if generator else device)
    mask = torch.zeros(batch, count, dtype=torch.bool, device=noise.device)
    mask.scatter_(1, noise.argsort(dim=1)[:, :hidden], True)
    mask = upsample(mask.reshape(batch, *coarse), blocks)
    return mask[(slice(None), *(slice(size) for size in grid))].to(device or noise.device)


def upsample(mask: Tensor, factors: int | Sequence[int]) -> Tensor:
    """Repeats each entry of a mask (B, *grid) `factors` times per axis: blocks to patches, or patches to voxels."""
    for axis, factor in enumerate(per_axis(factors, mask.ndim - 1), start=1):
        if factor != 1:
            mask = mask.repeat_interleave(factor, dim=axis)
    return mask


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One number for every axis: a single one is repeated, a sequence must have the right length."""
    values = (value,) * axes if isinstance(value, int) else tuple(int(item) for item in value)
    if len(values) != axes or min(values) < 1:
        raise ValueError(f"expected {axes} positive whole numbers, one per axis, got {value}")
    return values


class MaskToken(nn.Module):
    """What stands in for masked tokens (transformers) or masked voxels (convolutional encoders).

    Both mean modes start from the data: the first training batch sets the token, which is learned from then on. BDFM
    ("spatial mean masking") published the scalar mean, one number over batch, positions *and* channels; the default
    keeps one spatial mean per channel. Whether the token was set is a buffer, so a loaded checkpoint is never
    overwritten, and processes of one training agree on the value.

    Args:
        channels: channels of what is replaced.
        mode: "zero"; "learned" from a random start; "scalar_mean" (published); "channel_mean"; "image_mean", the mean
            of each channel over the visible positions of the same image.
        noise: standard deviation of the random start, added to a mean as well where it is above 0.
    """

    initialised: Tensor

    def __init__(self, channels: int, mode: MaskTokenMode = "channel_mean", *, noise: float = 0.0) -> None:
        super().__init__()
        self.mode = mode
        self.noise = noise
        if mode in ("learned", "scalar_mean", "channel_mean"):
            start = torch.empty(channels).normal_(std=0.02) if mode == "learned" else torch.zeros(channels)
            self.value = nn.Parameter(start)
        else:
            self.register_buffer("value", torch.zeros(channels), persistent=False)
        if mode in ("scalar_mean", "channel_mean"):
            self.register_buffer("initialised", torch.tensor(False))
        self._asks = True  # whether the buffer has to be looked at: once it is true, it stays true

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Replaces masked positions.

        Args:
            features: (B, *positions, C), channels last.
            mask: boolean (B, *positions), True = masked.

        Returns:
            A tensor like `features` with the token wherever the mask is true.
        """
        if self.training and self._asks and self.mode in ("scalar_mean", "channel_mean"):
            self._start_from(features.detach())
        token = _visible_mean(features, mask) if self.mode == "image_mean" else self.value
        return torch.where(mask.unsqueeze(-1), token.to(features.dtype), features)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._asks = True
        super()._load_from_state_dict(*arguments, **options)

    @torch.no_grad()
    def _start_from(self, features: Tensor) -> None:
        """Set the token from the first batch that is trained on; afterwards there is nothing to compute or exchange."""
        self._asks = False
        if not features.is_meta and self.initialised:  # meta tensors, on which costs are counted, hold no answer
            return
        mean = features.float().flatten(0, -2).mean(0)
        if self.mode == "scalar_mean":
            mean = mean.mean().expand_as(mean)
        if self.noise:
            mean = mean + self.noise * torch.randn_like(mean)
        if distributed.is_available() and distributed.is_initialized():
            # each process counts by its samples, of which one may have more than another
            sums = torch.cat([mean * len(features), mean.new_tensor([len(features)])])
            distributed.all_reduce(sums)
            mean = sums[:-1] / sums[-1]
        self.value.copy_(mean)
        self.initialised.fill_(True)


def _visible_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean over the visible positions of each image, (B, 1, ..., 1, C)."""
    visible = (~mask).unsqueeze(-1)
    positions = tuple(range(1, features.ndim - 1))
    return (features * visible).sum(positions, keepdim=True) / visible.sum(positions, keepdim=True).clamp_min(1)
