"""Whole images rebuilt from what masks leave visible, window by window, each voxel once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from bdfm_nnunet.data.crops import read_crop
from bdfm_nnunet.masking import complementary_masks, upsample
from bdfm_nnunet.metrics import fill_with_mean
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import SharedView
from bdfm_nnunet.probes.masked_model import MaskedModel

Output = Literal["pixel", "frequency"]


@dataclass(frozen=True)
class Rebuilt:
    """An image of which every wanted voxel was hidden when it was rebuilt.

    Attributes:
        image: (C, *spatial); voxels outside the windows are those of the original.
        filled: the same with hidden voxels filled by the mean of the visible ones of the window and channel.
        hidden: boolean (*spatial), what the first mask of each window hid.
    """

    image: Tensor
    filled: Tensor
    hidden: Tensor


@torch.no_grad()
def rebuild_whole(
    model: MaskedModel,
    image: Tensor,
    wanted: Tensor,
    *,
    generator: torch.Generator,
    output: Output = "pixel",
    device: torch.device | str = "cpu",
) -> Rebuilt:
    """Rebuild all of an image from masks that hide every block of a window once.

    Windows have the size of the training's crops and cover the image evenly; those without a wanted voxel are left out.
    In each, `complementary_masks` are drawn at the training's mask ratio and block size, and every block is taken from
    the reconstruction under the mask that is chosen for it.

    Args:
        model: the pre-training; its network is on `device`.
        image: (C, *spatial) as in the training; each channel is an image if the training took them apart.
        wanted: boolean (*spatial), voxels that are to be rebuilt.
        generator: of the masks, on the CPU.
        output: of which decoder the image is taken.
        device: where the network is.
    """
    rebuilt, filled = image.clone(), image.clone()
    hidden = torch.zeros_like(wanted)
    for start in windows(image.shape[1:], model.crop):
        inside = [slice(max(first, 0), first + size) for first, size in zip(start, model.crop, strict=True)]
        if not wanted[tuple(inside)].any():
            continue
        crop = torch.empty(len(image), *model.crop)
        read_crop(image.numpy(), slice(None), start, out=crop.numpy())
        found = _rebuild_window(model, crop, generator, output, device)
        for whole, part in zip((rebuilt, filled, hidden[None]), (*found[:2], found[2][None]), strict=True):
            _place(whole, part, start)
    return Rebuilt(rebuilt, filled, hidden)


def windows(spatial: Sequence[int], crop: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the first voxels of windows that cover an image evenly; an image smaller than them lies in their middle.

    Example:
        >>> list(windows((10, 3), (4, 5)))
        [(0, -1), (3, -1), (6, -1)]
    """
    starts = []
    for size, step in zip(spatial, crop, strict=True):
        count = max(-(-size // step), 1)
        room = size - step
        starts.append([number * room // (count - 1) for number in range(count)] if count > 1 else [room // 2])
    yield from product(*starts)


def _rebuild_window(
    model: MaskedModel, crop: Tensor, generator: torch.Generator, output: Output, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a window (C, *crop) rebuilt, filled with means, and what the first mask hid."""
    objective = model.objective
    settings, grid = objective.settings, objective.grid(model.crop)
    masks, chosen = complementary_masks(
        grid, ratio=settings.mask_ratio, block_size=objective.block_size, generator=generator
    )
    images = crop[:, None] if model.single_channel else crop[None]
    rebuilt, filled = torch.zeros_like(images), torch.zeros_like(images)
    for mask, part in zip(masks, chosen, strict=True):
        hidden = mask.expand(len(images), *mask.shape)
        here = upsample(part[None], objective.patch_size)[:, None]
        found = _reconstruct(objective, images.to(device), hidden.to(device), output).float().cpu()
        rebuilt = torch.where(here, found, rebuilt)
        filled = torch.where(here, fill_with_mean(images, upsample(hidden, objective.patch_size)), filled)
    shape, first = crop.shape, upsample(masks[:1], objective.patch_size)[0]
    return rebuilt.reshape(shape), filled.reshape(shape), first


def _reconstruct(objective: MaskedImageModelling, images: Tensor, mask: Tensor, output: Output) -> Tensor:
    found = objective.reconstruct(images, mask=mask, only_pixel=output == "pixel")[output]
    if isinstance(objective.view, SharedView):  # would keep the features of every window
        objective.view.clear()
    return found


def _place(whole: Tensor, part: Tensor, start: Sequence[int]) -> None:
    """Write a window (C, *crop) into an image (C, *spatial), without what lies outside."""
    low = [max(first, 0) for first in start]
    high = [min(first + size, end) for first, size, end in zip(start, part.shape[1:], whole.shape[1:], strict=True)]
    into = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    taken = tuple(slice(a - first, b - first) for a, b, first in zip(low, high, start, strict=True))
    whole[(slice(None), *into)] = part[(slice(None), *taken)]
