"""NeuroSTORM as its paper and the public code describe it, step by step and by the public names: slow, in float64.

Nothing of the package is used. Tokens are channels-last (B, X, Y, Z, T, C).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, pad, softplus

Weights = dict[str, Tensor]
EMBED, PATCH, GRID, FRAMES, DEPTHS = 4, 2, 8, 6, (2, 2)


def public_weights(seed: int = 0, *, prompts: int = 0, layout: str = "2026") -> Weights:
    """Random weights of a small model by their public names and shapes; every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    shapes = dict(_encoder_shapes(prompts))
    if layout != "encoder":
        shapes |= dict(_decoder_shapes())
        shapes |= {"mask_token": (EMBED,), "window_mask_token": (256, EMBED), "atlas_mask_token": (EMBED,)}
    if layout == "2025":
        shapes["mask_token"] = shapes.pop("window_mask_token")
        del shapes["atlas_mask_token"]
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    noise = torch.randn(tuple(shape), generator=generator)
    if name.endswith("A_log"):
        return torch.arange(1, 17).log() + 0.1 * noise
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * noise
    return noise / math.sqrt(shape[-1]) if name.endswith("weight") and len(shape) == 2 else 0.3 * noise


def _encoder_shapes(prompts: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "patch_embed.fc.weight", (EMBED, PATCH**3)
    yield "patch_embed.fc.bias", (EMBED,)
    for i, depth in enumerate(DEPTHS):
        d, g = EMBED * 2**i, GRID // 2**i
        yield f"pos_embeds.{i}.pos_embed", (1, d, g, g, g, 1)
        yield f"pos_embeds.{i}.time_embed", (1, d, 1, 1, 1, FRAMES)
        for j in range(depth):
            yield from _block_shapes(f"layers.{i}.blocks.{j}", d)
            if prompts:
                yield f"layers.{i}.blocks.{j}.prompt", (1, prompts, d)
        if i < len(DEPTHS) - 1:
            yield from _norm_shapes(f"layers.{i}.downsample.norm", 8 * d)
            yield f"layers.{i}.downsample.reduction.weight", (2 * d, 8 * d)


def _decoder_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "first_patch_expanding.expand.weight", (8 * EMBED, 2 * EMBED)
    yield from _norm_shapes("first_patch_expanding.norm", EMBED)
    for j in range(DEPTHS[0]):
        yield from _block_shapes(f"layers_up.0.blocks.{j}", EMBED)
    yield from _norm_shapes("norm_up", EMBED)
    yield "decoder_pred.weight", (PATCH**3, EMBED)
    yield "decoder_pred.bias", (PATCH**3,)


def _block_shapes(name: str, d: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    e, r = 2 * d, math.ceil(d / 16)
    yield from _norm_shapes(f"{name}.norm1", d)
    yield from _norm_shapes(f"{name}.norm2", d)
    for part, shape in {
        "A_log": (e, 16), "D": (e,), "in_proj.weight": (2 * e, d), "conv1d.weight": (e, 1, 4), "conv1d.bias": (e,),
        "x_proj.weight": (r + 32, e), "dt_proj.weight": (e, r), "dt_proj.bias": (e,), "out_proj.weight": (d, e),
    }.items():  # fmt: skip
        yield f"{name}.mamba.{part}", shape
    for i, (rows, columns) in ((1, (4 * d, d)), (2, (d, 4 * d))):
        yield f"{name}.mlp.linear{i}.weight", (rows, columns)
        yield f"{name}.mlp.linear{i}.bias", (rows,)


def _norm_shapes(name: str, d: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (d,)
    yield f"{name}.bias", (d,)


def slow_mamba(tokens: Tensor, weights: Weights) -> Tensor:
    """Mamba-1 of sequences (N, L, C), one token after the other."""
    e, states = weights["A_log"].shape
    rank = weights["dt_proj.weight"].shape[1]
    x, z = (tokens @ weights["in_proj.weight"].T).split(e, -1)
    state, out = x.new_zeros(len(x), e, states), []
    for t in range(x.shape[1]):
        taps = [x[:, t - 3 + k] * weights["conv1d.weight"][:, 0, k] for k in range(4) if t - 3 + k >= 0]
        seen = _silu(weights["conv1d.bias"] + sum(taps))
        dt, b, c = (seen @ weights["x_proj.weight"].T).split([rank, states, states], -1)
        step = softplus(dt @ weights["dt_proj.weight"].T + weights["dt_proj.bias"])[..., None]
        state = torch.exp(step * -weights["A_log"].exp()) * state + step * seen[..., None] * b[:, None]
        out.append(((state * c[:, None]).sum(-1) + weights["D"] * seen) * _silu(z[:, t]))
    return torch.stack(out, 1) @ weights["out_proj.weight"].T


def _silu(values: Tensor) -> Tensor:
    return values / (1 + torch.exp(-values))


def part_of(weights: Weights, prefix: str) -> Weights:
    """The weights behind a prefix, in float64."""
    return {name.removeprefix(prefix): w.double() for name, w in weights.items() if name.startswith(prefix)}


def slow_block(tokens: Tensor, weights: Weights, *, shifted: bool, window: Sequence[int] = (4, 4, 4, 4)) -> Tensor:
    """A published block: padded, rolled, cut into windows, scanned, and all of it backwards; prompts in front."""
    grid = tokens.shape[1:-1]
    window = [min(a, b) for a, b in zip(window, grid)]
    shift = [a // 2 if shifted and b > a else 0 for a, b in zip(window, grid)]
    normed = _norm(tokens, part_of(weights, "norm1."))
    spare = [-n % w for n, w in zip(grid, window)]
    x = pad(normed, [0, 0, *(n for s in reversed(spare) for n in (0, s))])
    x = torch.roll(x, [-s for s in shift], (1, 2, 3, 4))
    corners = torch.cartesian_prod(*(torch.arange(0, n, w) for n, w in zip(x.shape[1:-1], window))).tolist()
    places = [(slice(None), *(slice(c, c + w) for c, w in zip(corner, window))) for corner in corners]
    sequences = torch.cat([x[place].flatten(1, 4) for place in places])
    if "prompt" in weights:
        sequences = torch.cat([weights["prompt"].double().expand(len(sequences), -1, -1), sequences], 1)
    scanned = slow_mamba(sequences, part_of(weights, "mamba."))[:, -math.prod(window) :]
    out = torch.zeros_like(x)
    for place, part in zip(places, scanned.split(len(x)), strict=True):
        out[place] = part.reshape(out[place].shape)
    out = torch.roll(out, shift, (1, 2, 3, 4))[:, : grid[0], : grid[1], : grid[2], : grid[3]]
    tokens = tokens + out
    mlp = part_of(weights, "mlp.")
    hidden = gelu(_norm(tokens, part_of(weights, "norm2.")) @ mlp["linear1.weight"].T + mlp["linear1.bias"])
    return tokens + hidden @ mlp["linear2.weight"].T + mlp["linear2.bias"]


def _norm(tokens: Tensor, weights: Weights) -> Tensor:
    return layer_norm(tokens, tokens.shape[-1:], weights["weight"], weights["bias"])


def slow_stages(images: Tensor, weights: Weights, mask: Tensor | None = None, kind: str = "window") -> list[Tensor]:
    """The tokens of every stage of the encoder in front of merging, for images (B, 1, X, Y, Z, T)."""
    tokens = _embedded(images.double(), part_of(weights, "patch_embed.fc."))
    if mask is not None:
        tokens = _masked(tokens, mask, weights, kind)
    found = []
    for i, depth in enumerate(DEPTHS):
        table = part_of(weights, f"pos_embeds.{i}.")
        tokens = tokens + (table["pos_embed"] + table["time_embed"][..., : images.shape[-1]]).movedim(1, -1)
        last = i == len(DEPTHS) - 1
        window = (*tokens.shape[1:4], 4) if last else (4, 4, 4, 4)
        for j in range(depth):
            block = part_of(weights, f"layers.{i}.blocks.{j}.")
            tokens = slow_block(tokens, block, shifted=j % 2 == 1 and not last, window=window)
        found.append(tokens)
        if not last:
            tokens = _merged(tokens, part_of(weights, f"layers.{i}.downsample."))
    return found


def slow_reconstruction(images: Tensor, weights: Weights, mask: Tensor, kind: str = "window") -> Tensor:
    """The prediction (B, 1, X, Y, Z, T) of the masked auto-encoder."""
    tokens = slow_stages(images, weights, mask, kind)[-1]
    expanding = part_of(weights, "first_patch_expanding.")
    tokens = _norm(_unfolded(tokens @ expanding["expand.weight"].T, 2), expanding_norm(expanding))
    for j in range(DEPTHS[0]):
        tokens = slow_block(tokens, part_of(weights, f"layers_up.0.blocks.{j}."), shifted=j % 2 == 1)
    last = part_of(weights, "decoder_pred.")
    voxels = _norm(tokens, part_of(weights, "norm_up.")) @ last["weight"].T + last["bias"]
    return _unfolded(voxels, PATCH).movedim(-1, 1)


def expanding_norm(expanding: Weights) -> Weights:
    return part_of(expanding, "norm.")


def _embedded(images: Tensor, weights: Weights) -> Tensor:
    patches = [
        images[:, 0, i::PATCH, j::PATCH, k::PATCH]
        for i in range(PATCH) for j in range(PATCH) for k in range(PATCH)
    ]  # fmt: skip
    return torch.stack(patches, -1) @ weights["weight"].T + weights["bias"]


def _masked(tokens: Tensor, mask: Tensor, weights: Weights, kind: str) -> Tensor:
    tokens = tokens.clone()
    for b, x, y, z, t in mask.nonzero().tolist():
        row = ((x % 4 * 4 + y % 4) * 4 + z % 4) * 4 + t % 4
        token = weights["window_mask_token"][row] if kind == "window" else weights[kind]
        tokens[b, x, y, z, t] = token.double()
    return tokens


def _merged(tokens: Tensor, weights: Weights) -> Tensor:
    around = [tokens[:, i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return _norm(torch.cat(around, -1), part_of(weights, "norm.")) @ weights["reduction.weight"].T


def _unfolded(tokens: Tensor, times: int) -> Tensor:
    """Channels split as (p1 p2 p3 c) into a grid that is finer by a factor in space."""
    batch, x, y, z, t, channels = tokens.shape
    out = tokens.new_zeros(batch, x * times, y * times, z * times, t, channels // times**3)
    parts = iter(tokens.split(channels // times**3, -1))
    for i in range(times):
        for j in range(times):
            for k in range(times):
                out[:, i::times, j::times, k::times] = next(parts)
    return out
