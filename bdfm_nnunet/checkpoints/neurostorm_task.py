"""A published NeuroSTORM model (https://arxiv.org/abs/2506.11167) that was fine-tuned, with the head of its task."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_in_memory, read_checkpoint
from bdfm_nnunet.checkpoints.neurostorm_reference import NeurostormReference, load_neurostorm_reference
from bdfm_nnunet.checkpoints.readers.renaming import Table, rename
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.clip_heads import ClassToken, EmbeddingHead, HiddenMean, MeanOfClip
from bdfm_nnunet.networks.position_tables import PositionTable

_PREFIX = "output_head."
_V3: Table = (
    (r"^head\.cls_token$", "0.token"),
    (r"^head\.transformer_encoder\.layers\.", "0.layers."),
    (r"^head\.(norm|mlp_head\.0)\.", "0.norm."),
    (r"^head\.(head|mlp_head\.1)\.", "1."),
)
_OTHERS: Table = (
    (r"^head\.norm\.", None),  # which v1 never used
    (r"^head\.hidden\.", "0."),
    (r"^head\.head\.", "1."),
)


class NeurostormTask(nn.Module):
    """Encoder and head of a fine-tuned model.

    Args:
        model: the encoder, in the legacy form.
        head: maps its features (B, C, *grid, T) to outputs: what stands in front of the linear layer, and that layer;
            or the contrastive head.

    Example:
        >>> from bdfm_nnunet.checkpoints.load_report import LoadReport
        >>> from bdfm_nnunet.networks.masked_neurostorm import MaskedNeurostorm
        >>> from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(4, 4, 4, 2), patch_size=(2, 2, 2, 1), features=(4,), depths=(1,), merging=(), legacy=True
        ... )
        >>> model = NeurostormReference(MaskedNeurostorm(encoder, decoder=False), LoadReport(Path("a.ckpt"), ""))
        >>> NeurostormTask(model, nn.Sequential(MeanOfClip(), nn.Linear(4, 1)))(torch.zeros(3, 1, 4, 4, 4, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, model: NeurostormReference, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (B, K) of clips (B, 1, X, Y, Z, T): logits, a standardised value, or an embedding."""
        return cast(Tensor, self.head(self.model(images)))


def load_neurostorm_task(source: str | Path | Mapping[str, Any], *, full_last_window: bool = True) -> NeurostormTask:
    """Load a fine-tuned NeuroSTORM model with its head, in the legacy form and in eval mode.

    Heads v1, v2 and v3 of classes, that of a value and the contrastive one are known, in the layouts before and since
    April 2026. Two classes have one logit. The mean and deviation of a value's target are not in such files.

    Args:
        source: the file, or its content, as for `load_neurostorm_reference`.
        full_last_window: see there.

    Raises:
        InputError: the file cannot be read, is none of that model, or has no head or an incomplete one.

    Example:
        >>> shapes = {"mamba.A_log": (8, 16), "mamba.D": (8,), "mamba.in_proj.weight": (16, 4),
        ...           "mamba.conv1d.weight": (8, 1, 4), "mamba.conv1d.bias": (8,), "mamba.x_proj.weight": (33, 8),
        ...           "mamba.dt_proj.weight": (8, 1), "mamba.dt_proj.bias": (8,), "mamba.out_proj.weight": (4, 8),
        ...           "mlp.linear1.weight": (16, 4), "mlp.linear1.bias": (16,), "mlp.linear2.weight": (4, 16),
        ...           "mlp.linear2.bias": (4,), "norm1.weight": (4,), "norm1.bias": (4,), "norm2.weight": (4,),
        ...           "norm2.bias": (4,)}
        >>> shapes = {f"layers.0.blocks.0.{name}": shape for name, shape in shapes.items()}
        >>> shapes |= {"patch_embed.fc.weight": (4, 8), "patch_embed.fc.bias": (4,),
        ...            "pos_embeds.0.pos_embed": (1, 4, 2, 2, 2, 1), "pos_embeds.0.time_embed": (1, 4, 1, 1, 1, 3),
        ...            "output_head.head.head.weight": (1, 4), "output_head.head.head.bias": (1,)}
        >>> task = load_neurostorm_task({f"model.{name}": torch.ones(shape) for name, shape in shapes.items()})
        >>> task(torch.zeros(2, 1, 4, 4, 4, 3)).shape
        torch.Size([2, 1])
    """
    model = load_neurostorm_reference(source, full_last_window=full_last_window)
    checkpoint = checkpoint_in_memory(source) if isinstance(source, Mapping) else read_checkpoint(source)
    bare = {name.removeprefix("model."): tensor for name, tensor in checkpoint.weights.items()}
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in bare.items() if name.startswith(_PREFIX)}
    if not weights:
        raise InputError(f"{checkpoint.path.name} has no head ({_PREFIX}...): it is of a pre-training, not of a task")
    try:
        return NeurostormTask(model, _head(model, weights)).eval()
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        fault = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint.path.name} has an incomplete head ({fault}): copy it anew") from None


def _head(model: NeurostormReference, weights: Mapping[str, Tensor]) -> nn.Module:
    encoder = model.network.encoder
    channels = encoder.output_channels[-1]
    if "fc1.weight" in weights:
        head: nn.Module = EmbeddingHead(channels, len(weights["fc1.weight"]))
        head.load_state_dict(dict(weights))
        return head
    if "head.cls_token" in weights:
        positions = cast(PositionTable, encoder.stages[-1].positions)
        grid = (*positions.space.shape[:-1], len(positions.time))
        named = _with_positions(weights, grid)
        layers = {name.split(".")[2] for name in named if name.startswith("0.layers.")}
        neck: nn.Module = ClassToken(channels, grid, layers=len(layers))
    else:
        named = rename(weights, _OTHERS).weights
        neck = HiddenMean(channels) if "0.weight" in named else MeanOfClip()
    head = nn.Sequential(neck, nn.Linear(named["1.weight"].shape[1], len(named["1.weight"])))
    head.load_state_dict(named)
    return head


def _with_positions(weights: Mapping[str, Tensor], grid: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights of v3 by our names, its positions on the grid of the features."""
    table = weights["head.pos_embed"][0]
    if len(table) != 1 + prod(grid):
        raise ValueError(f"its positions are for {len(table) - 1} places, the encoder has {prod(grid)}")
    named = rename({name: each for name, each in weights.items() if name != "head.pos_embed"}, _V3).weights
    return {
        **named,
        "0.token": torch.flatten(named["0.token"]),
        "0.token_position": table[0],
        "0.positions": table[1:].reshape(*grid, -1),
    }
