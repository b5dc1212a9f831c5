"""What a network that rebuilds 4-D images must beat, and what to draw of it.

Shapes: images (B, C, X, Y, Z, T); hidden voxels are boolean (B, X, Y, Z, T), True = hidden; the brain is boolean
(B, X, Y, Z).
"""

import torch
from torch import Tensor

from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.objectives.base import Picture


def changing_voxels(images: Tensor) -> Tensor:
    """Return which voxels change from frame to frame, (B, X, Y, Z): all others are background.

    Where nothing changes in a sample, as in a single frame, every voxel counts.

    Example:
        >>> changing_voxels(torch.tensor([[1.0, 1.0], [1.0, 2.0]]).reshape(1, 1, 2, 1, 1, 2)).flatten()
        tensor([False,  True])
    """
    found = (images.amax(-1) > images.amin(-1)).any(1)
    return found | ~found.flatten(1).any(1)[:, None, None, None]


def token_shares(brain: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Return the share of brain among the voxels of each token, (B, *tokens in space).

    Args:
        brain: (B, X, Y, Z).
        patch_size: voxels per axis of a token in space.

    Example:
        >>> token_shares(torch.tensor([[[[True, False, False, False]]]]), (1, 1, 2)).tolist()
        [[[[0.5, 0.0]]]]
    """
    grid = [size // step for size, step in zip(brain.shape[1:], patch_size, strict=True)]
    return patchify(brain[:, None].float(), patch_size).flatten(2).mean(2).reshape(-1, *grid)


def constant_guess(images: Tensor, hidden: Tensor, brain: Tensor) -> Tensor:
    """Return images whose hidden voxels have the mean of the visible brain of their sample and channel.

    Example:
        >>> images = torch.tensor([1.0, 3.0, 8.0]).reshape(1, 1, 1, 1, 1, 3)
        >>> hidden = torch.tensor([False, False, True]).reshape(1, 1, 1, 1, 3)
        >>> constant_guess(images, hidden, torch.ones(1, 1, 1, 1, dtype=torch.bool)).flatten()
        tensor([1., 3., 2.])
    """
    seen = (brain[..., None] & ~hidden)[:, None]
    axes = (2, 3, 4, 5)
    mean = torch.where(seen, images, 0).sum(axes, keepdim=True) / seen.sum(axes, keepdim=True).clamp(min=1)
    return torch.where(hidden[:, None], mean, images)


def previous_guess(images: Tensor, hidden: Tensor, brain: Tensor) -> Tensor:
    """Return images whose hidden voxels have the value of the last frame before in which they are visible.

    Without one, it is that of the first one after; where a voxel is hidden in all frames, the `constant_guess`.

    Example:
        >>> images = torch.tensor([5.0, 1.0, 3.0, 8.0]).reshape(1, 1, 1, 1, 1, 4)
        >>> hidden = torch.tensor([True, False, True, True]).reshape(1, 1, 1, 1, 4)
        >>> previous_guess(images, hidden, torch.ones(1, 1, 1, 1, dtype=torch.bool)).flatten()
        tensor([1., 1., 1., 1.])
    """
    frames = images.shape[-1]
    number = torch.arange(frames, device=images.device)
    before = torch.where(hidden, -1, number).cummax(-1).values
    after = torch.where(hidden, frames, number).flip(-1).cummin(-1).values.flip(-1)
    source = torch.where(before >= 0, before, after)
    none = source == frames
    guess = images.gather(-1, source.clamp(max=frames - 1)[:, None].expand_as(images))
    return torch.where(none[:, None], constant_guess(images, hidden, brain), guess)


def clip_picture(
    images: Tensor, rebuilt: Tensor, hidden: Tensor, brain: Tensor, *, guess: Tensor, voxels: int = 3
) -> Picture:
    """Return the frame of the first sample of which most is hidden, and the time courses of some of its voxels.

    Args:
        images: originals.
        rebuilt: what the network makes of them.
        hidden: voxels that were masked.
        brain: where time courses are taken from.
        guess: from the previous frame, drawn beside the network's.
        voxels: number of time courses, spread over the hidden brain.

    Example:
        >>> import torch
        >>> clip, hidden = torch.rand(1, 1, 6, 7, 5, 4), torch.zeros(1, 6, 7, 5, 4, dtype=torch.bool)
        >>> hidden[..., 2] = True
        >>> picture = clip_picture(clip, clip, hidden, torch.ones(1, 6, 7, 5, dtype=torch.bool), guess=clip)
        >>> picture.original.shape, picture.courses["network"].shape
        (torch.Size([5, 7, 6]), torch.Size([3, 4]))
    """
    frame = int((hidden[0] & brain[0, ..., None]).flatten(0, 2).sum(0).argmax())
    places = (hidden[0].any(-1) & brain[0]).nonzero()
    places = places if len(places) else torch.ones_like(hidden[0, ..., 0]).nonzero()
    count = min(voxels, len(places))
    chosen = places[torch.linspace(0, len(places) - 1, count + 2, device=places.device)[1:-1].round().long()]
    x, y, z = chosen.unbind(1)
    shown = {"original": images, "network": rebuilt, "previous frame": guess}
    return Picture(
        upright(images[0, 0, ..., frame]),
        {"network": upright(rebuilt[0, 0, ..., frame])},
        upright(hidden[0, ..., frame]),
        courses={name: each[0, 0, x, y, z] for name, each in shown.items()},
        hidden=hidden[0, x, y, z],
    )


def upright(volume: Tensor) -> Tensor:
    """Return a volume (X, Y, Z) in RAS as slices from below, (Z, Y, X), with the front above.

    Example:
        >>> upright(torch.zeros(2, 3, 4)).shape
        torch.Size([4, 3, 2])
    """
    return volume.permute(2, 1, 0).flip(1)
