"""Shifted windows of tokens as sequences that are scanned, in any number of axes.

In the published NeuroSTORM (https://arxiv.org/abs/2506.11167) windows are shifted by rolling the grid, so that opposite
faces of the image, and its first and last frames, share windows, and padding is scanned like tokens. Here the windows
at the border are cut, as those of `window_groups`, and hold nothing but their tokens.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.networks.attention_windows import raster_numbers, window_pieces

_SHORTEST = 0.75  # of the longest sequence of a group: what is padded costs less than another group


@dataclass(frozen=True)
class WindowSequences:
    """Windows of about as many tokens, each a sequence with the last axis fastest.

    Attributes:
        rows: tokens of each window, (G, L), as raster numbers on the grid; the number after the last is padding.
        valid: boolean (G, L), False = padding that is not to be scanned; None where everything is scanned.
    """

    rows: Tensor
    valid: Tensor | None


@kept(maxsize=128)
def window_sequences(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], legacy: bool, device: torch.device
) -> tuple[WindowSequences, ...]:
    """Return every token of the grid once, in groups of windows that can be scanned together.

    Args:
        grid: tokens per axis.
        window: tokens per axis of a window.
        shift: shift of the windows in tokens, per axis.
        legacy: windows of the rolled grid, with the padding of a grid that they do not divide.
        device: device of the tensors.

    Example:
        >>> groups = window_sequences((3, 4), (2, 2), (1, 1), False, torch.device("cpu"))
        >>> [group.rows.tolist() for group in groups]
        [[[5, 6, 9, 10]], [[7, 11], [4, 8], [1, 2]], [[3], [0]]]
        >>> window_sequences((4,), (2,), (1,), True, torch.device("cpu"))[0].rows.tolist()
        [[1, 2], [3, 0]]
    """
    axes = [
        _rolled(*each) if legacy else [piece.tokens for piece in window_pieces(*each, padding=False)]
        for each in zip(grid, window, shift, strict=True)
    ]
    found = [list(raster_numbers(grid, places)) for places in product(*axes)]
    if legacy:
        return (WindowSequences(torch.tensor(found, device=device), None),)
    return tuple(_padded(group, math.prod(grid), device) for group in _alike(found))


def _rolled(size: int, extent: int, step: int) -> list[tuple[int, ...]]:
    """Return the windows of one axis that is padded to whole windows and rolled."""
    full = -(-size // extent) * extent
    return [tuple((first + place + step) % full for place in range(extent)) for first in range(0, full, extent)]


def _alike(rows: list[list[int]]) -> list[list[list[int]]]:
    """Return sequences in groups of similar lengths, the longest first."""
    groups: list[list[list[int]]] = []
    for row in sorted(rows, key=len, reverse=True):
        if not groups or len(row) < _SHORTEST * len(groups[-1][0]):
            groups.append([])
        groups[-1].append(row)
    return groups


def _padded(rows: list[list[int]], outside: int, device: torch.device) -> WindowSequences:
    longest = len(rows[0])
    table = torch.tensor([row + [outside] * (longest - len(row)) for row in rows], device=device)
    return WindowSequences(table, table < outside if len(rows[-1]) < longest else None)
