"""MONAI's orders of merged tokens and of image axes, turned into ours; pure functions.

MONAI's arrays are (x, y, z), ours (z, y, x). Its merging joins eight neighbours; in which order, its versions disagree,
under the same names and shapes.
"""

from itertools import product

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.reader import Merging

Offset = tuple[int, ...]

NEIGHBOURS: dict[Merging, tuple[Offset, ...]] = {
    "monai-1.4": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
    "monai-1.5": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    "mergingv2": tuple(product((0, 1), (0, 1), (0, 1))),
}
"""Offsets (x, y, z) of the tokens that MONAI merges, in their order; its default, up to version 1.4, has two twice.

See https://github.com/Project-MONAI/MONAI/issues/4757 and 7324.
"""


def merged_columns(order: Merging) -> tuple[int, ...]:
    """Return for each neighbour of ours, first axis fastest, its place in an order of MONAI's.

    Axes and the order inside the list are both reversed, so that "mergingv2" comes out as it is.

    Args:
        order: one of those that join every neighbour.

    Example:
        >>> merged_columns("mergingv2"), merged_columns("monai-1.5")
        ((0, 1, 2, 3, 4, 5, 6, 7), (0, 3, 2, 6, 1, 5, 4, 7))
    """
    return tuple(NEIGHBOURS[order].index(offset) for offset in product((0, 1), (0, 1), (0, 1)))


def turned_merging(tensor: Tensor, order: Merging) -> Tensor:
    """Return a norm's parameter (8 C), or a projection (C_out, 8 C), of a merging for our order.

    Args:
        tensor: of MONAI's merging.
        order: of MONAI; the tokens of "monai-1.4", two of which it joins twice, stay as they are.

    Example:
        >>> import torch
        >>> turned_merging(torch.arange(8), "monai-1.5").tolist()
        [0, 3, 2, 6, 1, 5, 4, 7]
    """
    if order == "monai-1.4":
        return tensor
    return tensor.unflatten(-1, (8, -1))[..., merged_columns(order), :].flatten(-2)


def turned_kernel(kernel: Tensor) -> Tensor:
    """Return a kernel (C_out, C_in, x, y, z) as (C_out, C_in, z, y, x).

    Example:
        >>> import torch
        >>> turned_kernel(torch.zeros(4, 1, 1, 2, 3)).shape
        torch.Size([4, 1, 3, 2, 1])
    """
    return kernel.permute(0, 1, 4, 3, 2).contiguous()


def turned_table(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """Return a table of relative position biases for reversed axes.

    Args:
        table: (prod(2 w - 1), heads), offsets with the last axis fastest.
        window: tokens per axis (x, y, z).

    Example:
        >>> import torch
        >>> turned_table(torch.arange(3.0)[:, None], (1, 1, 2)).flatten()  # offsets in z become those of the first axis
        tensor([0., 1., 2.])
    """
    grid = table.unflatten(0, [2 * size - 1 for size in window])
    return grid.permute(2, 1, 0, 3).flatten(0, 2)
