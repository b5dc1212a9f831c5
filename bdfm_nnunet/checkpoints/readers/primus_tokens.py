"""Primus transformers: their names, the sizes that their weights show, and the order in which they read tokens.

Primus: Wald et al. 2025, https://arxiv.org/abs/2503.01835. Shapes: N tokens of the grid, R register tokens, C channels.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.readers.renaming import Table
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of

PRIMUS: Table = (
    (r"(^|\.)rope\.", None),
    (r"^(encoder\.)?mask_token$", None),
    # the decoder of a masked auto-encoder is a second transformer, of which segmentation has none
    (r"^(encoder\.)?decoder\.(blocks|norm|pos_embed|mask_token|patch_drop)\b", None),
    (r"^(encoder\.)?(eva|down_projection)\.", r"encoder.\2."),
    (r"^(encoder\.)?register_tokens$", r"encoder.register_tokens"),
    (r"^(encoder\.)?up_projection\.", r"decoder.up_projection."),
)
"""Names of Primus in nnssl, nnU-Net and dynamic-network-architectures to ours."""

HEADS = {396: 6, 792: 12, 864: 12, 1056: 16}
"""Channels of the published sizes S, B, M and L, and attention heads, which weights do not show."""


def is_primus(names: Iterable[str]) -> bool:
    """Return whether these are names of a Primus.

    Example:
        >>> is_primus(["encoder.eva.blocks.3.norm1.weight"])
        True
    """
    return any("eva.blocks." in f".{name}" for name in names)


def primus_kwargs(weights: Mapping[str, Tensor], grid: Sequence[int], heads: int) -> dict[str, Any]:
    """Return the arguments by which `PrimusNet` builds the encoder that has these weights.

    Args:
        weights: under our names.
        grid: tokens per axis.
        heads: attention heads.

    Example:
        >>> block = "encoder.eva.blocks.0"
        >>> weights = {"encoder.down_projection.proj.weight": torch.zeros(24, 1, 4, 4, 4),
        ...            f"{block}.norm1.weight": torch.zeros(24), f"{block}.gamma_1": torch.zeros(24)}
        >>> kwargs = primus_kwargs(weights, (2, 2, 2), 2)
        >>> kwargs["input_shape"], kwargs["eva_depth"], kwargs["init_values"], kwargs["scale_attn_inner"]
        ([8, 8, 8], 1, 0.1, False)
    """
    first = "encoder.eva.blocks.0."
    patch = _patch(weights)
    return {
        "input_shape": [size * step for size, step in zip(grid, patch, strict=True)],
        "embed_dim": len(weights[f"{first}norm1.weight"]),
        "eva_depth": len({name.split(".")[3] for name in weights if name.startswith("encoder.eva.blocks.")}),
        "eva_numheads": heads,
        "version": _version(weights),
        "strides": [[1] * 3, [2 if step % 2 == 0 else 1 for step in patch], [step // 2 or 1 for step in patch]],
        "init_values": 0.1 if f"{first}gamma_1" in weights else None,
        "scale_attn_inner": f"{first}attn.norm.weight" in weights,
        "num_register_tokens": _registers(weights),
    }


def _version(names: Collection[str]) -> int:
    if "encoder.down_projection.proj.weight" in names:
        return 1
    return 3 if any(name.startswith("encoder.down_projection.proj_to_tokens.") for name in names) else 2


def _patch(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    kernel = weights.get("encoder.down_projection.proj.weight")
    return (8, 8, 8) if kernel is None or kernel.ndim != 5 or 0 in kernel.shape else tuple(kernel.shape[2:])


def _registers(weights: Mapping[str, Tensor]) -> int:
    tokens = weights.get("encoder.register_tokens")
    return 0 if tokens is None or tokens.ndim != 3 else tokens.shape[1]


def token_grid(weights: Mapping[str, Tensor], patch_size: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the tokens per axis for which a Primus has positions; None where they cannot be told.

    Args:
        weights: under our names.
        patch_size: voxels of its images, as the plans have them; used where they fit the positions.

    Example:
        >>> weights = {"encoder.eva.pos_embed": torch.zeros(1, 27, 24)}
        >>> token_grid(weights, None), token_grid(weights, (8, 24, 72))
        ((3, 3, 3), (1, 3, 9))
    """
    positions = weights.get("encoder.eva.pos_embed")
    if positions is None or positions.ndim != 3:
        return None
    count = positions.shape[1] - _registers(weights)
    if count < 1:
        return None
    if patch_size is not None:
        planned = tuple(size // step for size, step in zip(patch_size, _patch(weights)))
        if len(planned) == 3 and math.prod(planned) == count:
            return planned
    side = round(count ** (1 / 3))
    return (side,) * 3 if side**3 == count else None


def heads_of(weights: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> int | None:
    """Return the attention heads of a Primus: as its arguments tell them, else those of its published size.

    Args:
        weights: under our names.
        kwargs: arguments of the network, in any project's names, not checked.

    Example:
        >>> weights = {"encoder.eva.blocks.0.norm1.weight": torch.zeros(864)}
        >>> heads_of(weights, {}), heads_of(weights, {"eva_numheads": 18})
        (12, 18)
    """
    told = kwargs.get("eva_numheads", kwargs.get("encoder_eva_numheads"))
    if isinstance(told, int) and told > 0:
        return told
    norm = weights.get("encoder.eva.blocks.0.norm1.weight")
    return None if norm is None or norm.ndim != 1 else HEADS.get(len(norm))


def in_raster_order(
    weights: Mapping[str, Tensor], kwargs: Mapping[str, Any], patch_size: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Turn a Primus of the order "hwd" into one of raster order, see `raster_order`.

    Args:
        weights: under our names.
        kwargs: arguments of the network, not checked; they may tell its heads and `input_shape`.
        patch_size: voxels of its images, where they do not.

    Raises:
        InputError: heads or tokens per axis are not told, or the weights cannot be put in order.

    Example:
        >>> in_raster_order({"encoder.eva.pos_embed": torch.zeros(1, 8, 24)}, {"eva_numheads": 2}).keys()
        dict_keys(['encoder.eva.pos_embed'])
    """
    shape = kwargs.get("input_shape", patch_size)
    grid, heads = token_grid(weights, None if fault_of(shape, [int]) else shape), heads_of(weights, kwargs)
    if grid is None or heads is None:
        lacking = "tokens per axis" if grid is None else "attention heads"
        raise InputError(f"it does not tell its {lacking}, by which its tokens could be put in order")
    return raster_order(weights, grid, heads)


def raster_order(weights: Mapping[str, Tensor], grid: Sequence[int], heads: int) -> dict[str, Tensor]:
    """Turn a Primus that reads its tokens second axis slowest ("hwd") into one that reads them in raster order ("whd").

    The former gives the token at (w, h, d) the learned and the rotary position of (h, w, d). So the learned positions
    are transposed, and in queries and keys the channels that the first axis rotates change places with those of the
    second: their products stay what they were. Exact for grids whose first two axes are equally long.

    Args:
        weights: under our names.
        grid: tokens per axis.
        heads: attention heads.

    Raises:
        InputError: the grid is of another shape, or heads and channels do not fit.

    Example:
        >>> weights = {"encoder.eva.pos_embed": torch.arange(4.0).reshape(1, 4, 1)}
        >>> raster_order(weights, (2, 2, 1), 1)["encoder.eva.pos_embed"].flatten()
        tensor([0., 2., 1., 3.])
    """
    if grid[0] != grid[1]:
        raise InputError(
            f"it reads tokens of a grid {tuple(grid)} in the order (h w d), by which positions belong to other tokens: "
            "weights of this order can be used where the first two axes are equally long"
        )
    return {name: _raster(name, tensor, tuple(grid), heads) for name, tensor in weights.items()}


def _raster(name: str, tensor: Tensor, grid: tuple[int, ...], heads: int) -> Tensor:
    if name == "encoder.eva.pos_embed":
        registers = tensor.shape[1] - math.prod(grid)
        places = tensor[:, registers:].unflatten(1, grid).transpose(1, 2).flatten(1, 3)
        return torch.cat([tensor[:, :registers], places], dim=1)
    if ".attn.q_proj." in name or ".attn.k_proj." in name:
        return _axes_swapped(tensor, heads)
    if ".attn.q_bias" in name or ".attn.qkv." in name:
        raise InputError("its queries and keys are one matrix, which no published Primus has: give weights of another")
    return tensor


def _axes_swapped(tensor: Tensor, heads: int) -> Tensor:
    """Let the channels of the first two axes of rotary positions change places in every head."""
    if not tensor.ndim or len(tensor) % (3 * heads):
        raise InputError(f"queries or keys of shape {tuple(tensor.shape)} are not those of {heads} heads in 3-D")
    chunks = tensor.unflatten(0, (heads, 3, -1))
    return chunks[:, [1, 0, 2]].flatten(0, 2)
