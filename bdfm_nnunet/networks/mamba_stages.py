"""Stages of blocks that scan shifted windows of tokens, in any number of axes (NeuroSTORM).

Shapes: B batch, C channels, *grid tokens per axis. Tokens are channels-last, (B, *grid, C).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.networks.attention_windows import clipped, half_shift
from bdfm_nnunet.networks.mamba import Mamba
from bdfm_nnunet.networks.patch_merging import PatchMerging
from bdfm_nnunet.networks.position_tables import PositionTable
from bdfm_nnunet.networks.recomputing import recomputed
from bdfm_nnunet.networks.redundancy_dropout import RedundancyDropout
from bdfm_nnunet.networks.scan_windows import window_sequences
from bdfm_nnunet.networks.swin import Perceptron, initialise_linear


class MambaBlock(nn.Module):
    """A scan of each window and a two-layer perceptron, each after a LayerNorm and with a shortcut.

    Args:
        channels: channels of a token.
        window_size: tokens per axis of a window; smaller grids clip it.
        shifted: whether windows are shifted by half their size, on axes that hold more than one.
        mlp_ratio: width of the perceptron, relative to the channels.
        both_directions: whether windows are also scanned from their end, see `Mamba`.
        legacy: windows of the rolled grid, whose padding is scanned, see `window_sequences`.

    Attributes:
        prompt: tokens (P, C) in front of every window, see `add_prompts`; None for none. A block without prompts that
            is given the state of one with prompts gets them.
    """

    def __init__(
        self,
        channels: int,
        *,
        window_size: Sequence[int],
        shifted: bool,
        mlp_ratio: float = 4.0,
        both_directions: bool = False,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.mlp_ratio, self.both_directions = channels, mlp_ratio, both_directions
        self.window_size, self.shifted, self.legacy = tuple(window_size), shifted, legacy
        self.prompt: nn.Parameter | None = None
        self.dropout: RedundancyDropout | None = None
        self.norm1 = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, both_directions=both_directions)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels, int(channels * mlp_ratio)).apply(initialise_linear)

    def forward(self, tokens: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Map (B, *grid, C) to the same shape; with keys the block's `RedundancyDropout` acts."""
        added, window, shift = self._scanned(self.norm1(tokens))
        tokens = tokens + (added if self.dropout is None else self.dropout(added, dropout_keys, window, shift))
        return tokens + cast(Tensor, self.mlp(self.norm2(tokens)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any) -> None:
        prompt = state_dict.get(f"{prefix}prompt")
        if self.prompt is None and isinstance(prompt, Tensor):
            self.prompt = nn.Parameter(self.norm1.weight.detach().new_empty(prompt.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

    def scan(self, tokens: Tensor) -> Tensor:
        """Scan the windows of a grid (B, *grid, C)."""
        return self._scanned(tokens)[0]

    def _scanned(self, tokens: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        """Return what `scan` does, and window and shift."""
        batch, *grid, channels = tokens.shape
        shift = half_shift(self.window_size, grid) if self.shifted else (0,) * len(grid)
        window = clipped(self.window_size, grid)
        groups = window_sequences(tuple(grid), window, shift, self.legacy, tokens.device)
        flat = functional.pad(tokens.flatten(1, -2), (0, 0, 0, 1))
        parts = []
        for group in groups:
            sequences = flat.index_select(1, group.rows.flatten()).reshape(-1, group.rows.shape[1], channels)
            valid = None if group.valid is None else group.valid.repeat(batch, 1)
            parts.append(self.mamba(sequences, valid=valid, prompts=self.prompt).reshape(batch, -1, channels))
        rows = torch.cat([group.rows.flatten() for group in groups])
        scanned = torch.cat(parts, 1)
        return scanned.new_zeros(flat.shape).index_copy(1, rows, scanned)[:, :-1].reshape(tokens.shape), window, shift


class MambaStage(nn.Module):
    """Blocks on one grid, every second one with shifted windows, after an optional change of the grid and positions.

    Args:
        blocks: the blocks.
        merging: merges tokens in front of the blocks; None on the first grid and where grids become finer.
        positions: what is added to the tokens in front of the blocks.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        blocks: Sequence[MambaBlock],
        *,
        merging: PatchMerging | None = None,
        positions: PositionTable | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.merging = merging
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.checkpointing = checkpointing

    def forward(self, tokens: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Map (B, *grid, C) of the stage before to (B, *grid, C) of this one; keys as of `MambaBlock`."""
        for part in (self.merging, self.positions):
            tokens = tokens if part is None else part(tokens)
        for block in self.blocks:
            compute = partial(block, dropout_keys=dropout_keys)
            tokens = recomputed(compute, tokens) if self.checkpointing and self.training else compute(tokens)
        return tokens


def add_prompts(network: nn.Module, count: int = 50, *, generator: torch.Generator) -> list[nn.Parameter]:
    """Give every block of an encoder learned tokens that it scans in front of each window, and return them.

    This is the prompt tuning of NeuroSTORM (https://arxiv.org/abs/2506.11167): all else can stay frozen. The prompts of
    a block are the same for all windows, so they are scanned once a block, see `Mamba`.

    Args:
        network: its blocks get the prompts, in place.
        count: tokens per block.
        generator: where they start, on the CPU.

    Raises:
        ValueError: the count is below 1, or the network has no blocks that scan.

    Example:
        >>> block = MambaBlock(8, window_size=(2, 2, 2, 2), shifted=False)
        >>> [tuple(each.shape) for each in add_prompts(block, 5, generator=torch.Generator().manual_seed(0))]
        [(5, 8)]
    """
    if count < 1:
        raise ValueError(f"{count} prompts a block, expected at least 1")
    blocks = [module for module in network.modules() if isinstance(module, MambaBlock)]
    if not blocks:
        raise ValueError(f"{type(network).__name__} has no blocks that scan windows: prompts are for NeuroSTORM")
    for block in blocks:
        start = torch.empty(count, block.channels)
        nn.init.trunc_normal_(start, std=0.02, generator=generator)
        block.prompt = nn.Parameter(start.to(block.norm1.weight))
    return prompts_of(network)


def add_prompts_of(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the blocks of a network that scans as many prompts as some weights for it have; none where they have none.

    Example:
        >>> block = MambaBlock(8, window_size=(2, 2), shifted=False)
        >>> add_prompts_of(block, {"encoder.stages.0.blocks.0.prompt": torch.zeros(3, 8)})
        >>> [tuple(each.shape) for each in prompts_of(block)]
        [(3, 8)]
    """
    there = [len(tokens) for name, tokens in weights.items() if name.endswith(".prompt") and tokens.ndim == 2]
    if there and all(there) and any(isinstance(module, MambaBlock) for module in network.modules()):
        add_prompts(network, there[0], generator=torch.Generator())


def prompts_of(network: nn.Module) -> list[nn.Parameter]:
    """Return the prompts of all blocks of a network that have some.

    Example:
        >>> prompts_of(MambaBlock(8, window_size=(2, 2), shifted=False))
        []
    """
    blocks = (module for module in network.modules() if isinstance(module, MambaBlock))
    return [block.prompt for block in blocks if block.prompt is not None]
