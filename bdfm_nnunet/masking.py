"""Random masks, and the token that replaces masked positions.

Shapes: masks are boolean grids of patches (B, *grid), True = masked.
"""

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
    """Draw masks that hide a fixed share of each sample's blocks, uniformly at random.

    This is the patch-aligned random masking of SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886) in any number
    of axes.

    Args:
        batch: number of samples; each gets another mask.
        grid: patches per axis.
        ratio: share of the blocks to mask; at least one block is masked and at least one stays visible.
        block_size: patches per axis that are masked together. The last blocks are cut off if the grid is not a multiple
            of it.
        generator: random generator; the numbers are drawn on its device.
        device: device of the mask.

    Returns:
        Boolean (B, *grid), True = masked.

    Raises:
        ValueError: the ratio is not inside (0, 1).
        InputError: the whole grid is a single block.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.masking import block_mask
        >>> mask = block_mask(2, (6, 6, 6), ratio=0.75, generator=torch.Generator().manual_seed(0))
        >>> mask.shape, mask.flatten(1).float().mean(1)
        (torch.Size([2, 6, 6, 6]), tensor([0.7500, 0.7500]))
    """
    blocks = per_axis(block_size, len(grid))
    coarse, hidden = _blocks_of(grid, blocks, ratio)
    count = math.prod(coarse)
    noise = torch.rand(batch, count, generator=generator, device=generator.device if generator else device)
    mask = torch.zeros(batch, count, dtype=torch.bool, device=noise.device)
    mask.scatter_(1, noise.argsort(dim=1)[:, :hidden], True)
    return _patches(mask.reshape(batch, *coarse), blocks, grid).to(device or noise.device)


def complementary_masks(
    grid: Sequence[int], *, ratio: float, block_size: int | Sequence[int] = 1, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw as few masks as hide every block, each with the share of hidden blocks that `block_mask` hides.

    Rebuilding what each mask hides, every position of an image can be judged as it was rebuilt from what was visible
    then. Where masks overlap, one of them is chosen for each block.

    Args:
        grid: patches per axis.
        ratio: as in `block_mask`.
        block_size: as in `block_mask`.
        generator: random generator, on the CPU.

    Returns:
        The masks, boolean (K, *grid), True = masked, and for each the patches that it is chosen for, which no other
        one is.

    Raises:
        ValueError: the ratio is not inside (0, 1).
        InputError: the whole grid is a single block.

    Example:
        >>> masks, chosen = complementary_masks((4, 4), ratio=0.75, generator=torch.Generator().manual_seed(0))
        >>> masks.flatten(1).sum(1), chosen.flatten(1).sum(1), bool((masks & chosen == chosen).all())
        (tensor([12, 12]), tensor([8, 8]), True)
        >>> bool((chosen.sum(0) == 1).all())
        True
    """
    blocks = per_axis(block_size, len(grid))
    coarse, hidden = _blocks_of(grid, blocks, ratio)
    count = math.prod(coarse)
    rounds = math.ceil(count / hidden)
    places = torch.randperm(count, generator=generator)
    starts = torch.tensor([number * count // rounds for number in range(rounds + 1)])[:, None]
    masks = (places - starts[:-1]) % count < hidden
    chosen = (places >= starts[:-1]) & (places < starts[1:])
    both = [_patches(each.reshape(rounds, *coarse), blocks, grid) for each in (masks, chosen)]
    return both[0], both[1]


def _blocks_of(grid: Sequence[int], blocks: Sequence[int], ratio: float) -> tuple[list[int], int]:
    """Return the blocks per axis and how many of all are to be hidden."""
    coarse = [math.ceil(size / block) for size, block in zip(grid, blocks, strict=True)]
    count = math.prod(coarse)
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio is {ratio}, expected a number between 0 and 1, both excluded")
    if count < 2:
        raise InputError(
            f"a grid of {tuple(grid)} patches is a single block of {blocks}: choose a smaller pretraining.block_size "
            "or a larger patch_size"
        )
    return coarse, min(max(round(ratio * count), 1), count - 1)


def _patches(mask: Tensor, blocks: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Return a mask of blocks as one of patches; blocks at the end are cut off."""
    return upsample(mask, blocks)[(slice(None), *(slice(size) for size in grid))]


def upsample(mask: Tensor, factors: int | Sequence[int]) -> Tensor:
    """Repeat each entry of a mask (B, *grid) `factors` times per axis: from blocks to patches, or patches to voxels.

    Example:
        >>> upsample(torch.tensor([[[True, False]]]), (1, 3))
        tensor([[[ True,  True,  True, False, False, False]]])
    """
    for axis, factor in enumerate(per_axis(factors, mask.ndim - 1), start=1):
        if factor != 1:
            mask = mask.repeat_interleave(factor, dim=axis)
    return mask


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return one number per axis: a single number is repeated, a sequence must have the right length.

    Raises:
        ValueError: wrong length, or a number below 1.

    Example:
        >>> per_axis(4, axes=3), per_axis([2, 4, 4], axes=3)
        ((4, 4, 4), (2, 4, 4))
    """
    values = (value,) * axes if isinstance(value, int) else tuple(int(item) for item in value)
    if len(values) != axes or min(values) < 1:
        raise ValueError(f"expected {axes} positive whole numbers, one per axis, got {value}")
    return values


class MaskToken(nn.Module):
    """Replacement of masked tokens (transformers) or masked voxels (convolutional encoders).

    SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886) learns the token from a random start. BDFM ("spatial mean
    masking") starts from the data: the first training batch sets the token, which is learned from then on. BDFM's
    published code takes one mean over batch, positions *and* channels ("scalar_mean"); the default takes one mean per
    channel. A buffer records whether the token was set, so a loaded token is never overwritten. The processes of a
    distributed training set the same value.

    Args:
        channels: channels of the features.
        mode: "zero"; "learned" from a random start; "scalar_mean", as published; "channel_mean"; "image_mean", the mean
            of each channel over the visible positions of the same image.
        noise: standard deviation of the noise that is added to "scalar_mean" and "channel_mean" when they are set.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.masking import MaskToken
        >>> token = MaskToken(2, mode="channel_mean")
        >>> features = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])  # one image, two positions, two channels
        >>> token(features, torch.tensor([[False, True]])).tolist()
        [[[1.0, 10.0], [2.0, 20.0]]]
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

    @property
    def waits_for_data(self) -> bool:
        """Whether the next call looks whether the token is to start from its features."""
        return self.training and self._asks and self.mode in ("scalar_mean", "channel_mean")

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Replace masked positions by the token.

        Args:
            features: (B, *positions, C), channels last.
            mask: boolean (B, *positions), True = masked.

        Returns:
            (B, *positions, C): the token where the mask is true, `features` elsewhere.
        """
        self._start_from(features)
        token = _visible_mean(features, mask) if self.mode == "image_mean" else self.value
        return torch.where(mask.unsqueeze(-1), token.to(features.dtype), features)

    def for_visible(self, features: Tensor) -> Tensor:
        """Return the token for images of which only the visible positions are given.

        Args:
            features: (B, N, C), channels last.

        Returns:
            (C,), or (B, 1, C) where the token depends on the image.
        """
        self._start_from(features)
        return features.mean(1, keepdim=True) if self.mode == "image_mean" else self.value

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._asks = True
        super()._load_from_state_dict(*arguments, **options)

    @torch.no_grad()
    def _start_from(self, features: Tensor) -> None:
        """Set the token from the first training batch; later calls neither compute nor exchange anything."""
        if not self.waits_for_data:
            return
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
    """Return the mean over the visible positions of each image, (B, 1, ..., 1, C)."""
    visible = (~mask).unsqueeze(-1)
    positions = tuple(range(1, features.ndim - 1))
    return (features * visible).sum(positions, keepdim=True) / visible.sum(positions, keepdim=True).clamp_min(1)
