"""One training step of BDFM written plainly from its published mathematics: the arm that step.py compares with.

Nothing is clever here: windows are cut out, all attention matrices are formed and kept, spectra are convolved between
two FFTs, and the focal frequency loss visits one patch after the other, as the published codes of its kind do. It
reads the parameters of `MaskedImageModelling(..., PretrainingSettings.published())` by their names, so both can
be compared to the last digit. Encoder: https://arxiv.org/abs/2103.14030; focal frequency loss:
https://arxiv.org/abs/2012.12821.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

PATCH, WINDOW, HEADS, DEPTHS, BLOCKS = 4, 7, (3, 6, 12, 24), (2, 2, 6, 2), 8
Weights = Mapping[str, Tensor]


def loss_of(weights: Weights, images: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of images (B, 1, D, H, W) under token masks (B, D/4, H/4, W/4), True = masked."""
    latent = encode(weights, images, mask)
    hidden = _transposed(weights, "pixel_decoder.expand", latent)
    pixel = _transposed(weights, "pixel_decoder.project", hidden)
    frequency = frequency_decoder(weights, pixel)
    patches = tuple(mask.shape[1:])
    weight = functional.interpolate(mask[:, None].to(images.dtype), scale_factor=PATCH)
    pixel_loss = (weight * (pixel - images) ** 2).sum() / weight.sum()
    return pixel_loss + focal_frequency_loss(frequency, images, mask, patches)


# -------------------------------------------------------------------------------------------------------- encoder


def encode(weights: Weights, images: Tensor, mask: Tensor) -> Tensor:
    """Return the normalised features of the last stage, (B, C, *grid)."""
    *_, features = stages(weights, images, mask)
    return features


def stages(weights: Weights, images: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Yield the features after the blocks of each stage, (B, C, *grid), normalised after the last one."""
    tokens = functional.conv3d(
        images, weights["encoder.patch_embed.weight"], weights["encoder.patch_embed.bias"], stride=PATCH
    )
    tokens = tokens.permute(0, 2, 3, 4, 1)
    tokens = torch.where(mask[..., None], weights["mask_token.value"].to(tokens.dtype), tokens)
    for stage, depth in enumerate(DEPTHS):
        if stage:
            tokens = _merge(weights, f"encoder.stages.{stage}.merging", tokens)
        for number in range(depth):
            name = f"encoder.stages.{stage}.blocks.{number}"
            tokens = tokens + _attend(weights, name, _norm(weights, f"{name}.norm1", tokens), HEADS[stage], number % 2)
            hidden = _linear(weights, f"{name}.mlp.0", _norm(weights, f"{name}.norm2", tokens))
            tokens = tokens + _linear(weights, f"{name}.mlp.2", functional.gelu(hidden))
        last = stage == len(DEPTHS) - 1
        yield (_norm(weights, "encoder.norm", tokens) if last else tokens).permute(0, 4, 1, 2, 3)


def _attend(weights: Weights, name: str, tokens: Tensor, heads: int, shifted: int) -> Tensor:
    batch, *grid, channels = tokens.shape
    window = [min(size, WINDOW) for size in grid]
    shift = [size // 2 if shifted and count > size else 0 for count, size in zip(grid, window)]
    padding = [(-count) % size for count, size in zip(grid, window)]
    tokens = functional.pad(tokens, [0, 0, 0, padding[2], 0, padding[1], 0, padding[0]])
    padded = list(tokens.shape[1:4])
    if any(shift):
        tokens = tokens.roll([-step for step in shift], (1, 2, 3))
    windows = _windows(tokens, window)  # (B * windows, N, C)
    count = windows.shape[1]
    qkv = _linear(weights, f"{name}.attn.qkv", windows)
    query, key, value = qkv.reshape(-1, count, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    scores = (query * (channels // heads) ** -0.5) @ key.transpose(-2, -1)
    index = _bias_index(tokens.device)[:count, :count].reshape(-1)
    table = weights[f"{name}.attn.relative_position_bias_table"]
    scores = scores + table[index].reshape(count, count, heads).permute(2, 0, 1)[None]
    if any(shift):
        hidden = _shift_mask(padded, window, shift, tokens.device)
        scores = scores.reshape(batch, len(hidden), heads, count, count) + hidden[None, :, None]
        scores = scores.reshape(-1, heads, count, count)
    attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, count, channels)
    tokens = _from_windows(_linear(weights, f"{name}.attn.proj", attended), window, [batch, *padded, channels])
    if any(shift):
        tokens = tokens.roll(shift, (1, 2, 3))
    return tokens[:, : grid[0], : grid[1], : grid[2]]


def _windows(tokens: Tensor, window: Sequence[int]) -> Tensor:
    batch, depth, height, width, channels = tokens.shape
    d, h, w = window
    tokens = tokens.reshape(batch, depth // d, d, height // h, h, width // w, w, channels)
    return tokens.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, d * h * w, channels)


def _from_windows(windows: Tensor, window: Sequence[int], shape: Sequence[int]) -> Tensor:
    batch, depth, height, width, channels = shape
    d, h, w = window
    windows = windows.reshape(batch, depth // d, height // h, width // w, d, h, w, channels)
    return windows.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def _bias_index(device: torch.device) -> Tensor:
    """Return the row of the table for each pair of tokens of the full window."""
    axis = torch.arange(WINDOW, device=device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    offsets = points[:, None] - points[None] + WINDOW - 1
    sizes = torch.tensor([(2 * WINDOW - 1) ** 2, 2 * WINDOW - 1, 1], device=device)
    return (offsets * sizes).sum(-1)


def _shift_mask(grid: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Return -100 for tokens that were no neighbours before the shift, (windows, N, N)."""
    region = torch.zeros(1, *grid, 1, device=device)
    axes = [
        [slice(0, -size), slice(-size, -step), slice(-step, None)] if step else [slice(None)]
        for size, step in zip(window, shift)
    ]
    for number, place in enumerate(product(*axes)):
        region[(0, *place)] = number
    regions = _windows(region, window)[..., 0]
    return (regions[:, :, None] != regions[:, None]) * -100.0


def _merge(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    height, width = tokens.shape[2:4]
    tokens = functional.pad(tokens, [0, 0, 0, width % 2, 0, height % 2])
    parts = [tokens[:, :, h::2, w::2] for w in (0, 1) for h in (0, 1)]
    return functional.linear(_norm(weights, f"{name}.norm", torch.cat(parts, -1)), weights[f"{name}.reduction.weight"])


def _norm(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return functional.layer_norm(tokens, weight.shape, weight, weights[f"{name}.bias"])


def _linear(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    return functional.linear(tokens, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _transposed(weights: Weights, name: str, features: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return functional.conv_transpose3d(features, weight, weights[f"{name}.bias"], stride=weight.shape[2:])


# ------------------------------------------------------------------------------------------------------ frequency


def frequency_decoder(weights: Weights, images: Tensor) -> Tensor:
    """Convolve spectra, then normalise each patch; in single precision at least."""
    with torch.autocast(images.device.type, enabled=False):
        images = images.to(weights["frequency_decoder.norm.weight"].dtype)
        for number in range(BLOCKS):
            name = f"frequency_decoder.blocks.{number}"
            kernels, biases = weights[f"{name}.kernels"], weights[f"{name}.bias"]
            spectrum = torch.fft.fftn(images, dim=(2, 3, 4), norm="ortho")
            real = functional.conv3d(spectrum.real, kernels[0][None], biases[0], padding=1)
            imaginary = functional.conv3d(spectrum.imag, kernels[1][None], biases[1], padding=1)
            filtered = torch.fft.ifftn(torch.complex(real, imaginary), dim=(2, 3, 4), norm="ortho")
            images = filtered.abs() + images
        batch, _, depth, height, width = images.shape
        split = [batch, 1, depth // PATCH, PATCH, height // PATCH, PATCH, width // PATCH, PATCH]
        patches = images.reshape(split).permute(0, 2, 4, 6, 1, 3, 5, 7)
        patches = _norm(weights, "frequency_decoder.norm", patches.flatten(4)).reshape(patches.shape)
        return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(images.shape)


def focal_frequency_loss(prediction: Tensor, target: Tensor, mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Score patch by patch; a patch counts if any sample masks it; it is transformed over channel, depth and height."""
    chosen = []
    for place in product(*map(range, grid)):
        if mask[(slice(None), *place)].sum() > 0:
            box = tuple(slice(n * PATCH, (n + 1) * PATCH) for n in place)
            chosen.append(box)
    spectra = [
        torch.fft.fftn(
            torch.stack([image[(slice(None), slice(None), *box)] for box in chosen], 1), dim=(2, 3, 4), norm="ortho"
        )
        for image in (prediction, target.to(prediction.dtype))
    ]
    difference = torch.view_as_real(spectra[0] - spectra[1]).square().sum(-1)  # (B, P, C, d, h, w)
    weight = difference.detach().sqrt()
    peak = weight.amax((3, 4, 5), keepdim=True)
    weight = torch.nan_to_num(weight / peak).clamp(0, 1)
    return (weight * difference).mean()


def published_sizes() -> dict[str, object]:
    """Return the arguments of `SwinEncoder` for the published encoder, which has one input channel."""
    return {
        "patch_size": (PATCH,) * 3,
        "features": [96 * 2**stage for stage in range(4)],
        "depths": list(DEPTHS),
        "num_heads": list(HEADS),
        "window_size": (WINDOW,) * 3,
        "merging": [(1, 2, 2)] * 3,
        "drop_path_rate": 0.0,
        "legacy": True,
    }


def flops(batch: int, size: int) -> float:
    """Count the FLOPs of the matrix products of one step, forward and backward, with windows padded as published."""
    grid, total = [size // PATCH] * 3, 2.0 * size**3 * 96
    for stage, depth in enumerate(DEPTHS):
        channels = 96 * 2**stage
        if stage:
            grid = [grid[0], *(math.ceil(n / 2) for n in grid[1:])]
            total += 2.0 * math.prod(grid) * (2 * channels) * channels  # four tokens of half the channels become one
        window = [min(n, WINDOW) for n in grid]
        padded = math.prod(math.ceil(n / w) * w for n, w in zip(grid, window))
        mlp = 2.0 * math.prod(grid) * 8 * channels**2
        attention = 2.0 * padded * (4 * channels**2 + 2 * channels * math.prod(window))
        total += depth * (mlp + attention)
    latent, hidden = math.prod(grid), 16
    total += 2.0 * latent * 768 * hidden * 4 * 8 * 8 + 2.0 * size**3 * hidden
    return 3 * batch * total
