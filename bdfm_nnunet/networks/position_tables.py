"""Learned positions in space and in time of tokens whose last axis is time.

Shapes: B batch, *grid tokens per axis of space, T frames of a clip, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PositionTable(nn.Module):
    """A learned vector per place and one per frame, both added to each token.

    A clip of up to as many frames as the table takes the first ones, since frames are equally far apart in time; those
    of a longer one are spread over the table by linear interpolation.

    Args:
        channels: channels of a token.
        grid: tokens per axis, time last.
        frame_seconds: seconds from a frame to the next. Rows of the table are then read, between them by linear
            interpolation, at the seconds of the frames, and its last row at all later ones. By default frames are
            counted.
        table_seconds: seconds from a row of the table to the next.

    Raises:
        ValueError: seconds are not above zero.

    Example:
        >>> table = PositionTable(8, (2, 2, 2, 10))
        >>> table(torch.rand(1, 2, 2, 2, 6, 8)).shape
        torch.Size([1, 2, 2, 2, 6, 8])
    """

    def __init__(
        self, channels: int, grid: tuple[int, ...], *, frame_seconds: float | None = None, table_seconds: float = 0.8
    ) -> None:
        super().__init__()
        if min(1.0 if frame_seconds is None else frame_seconds, table_seconds) <= 0:
            raise ValueError(
                f"frame_seconds is {frame_seconds}, table_seconds {table_seconds}: expected numbers above 0"
            )
        self.space = nn.Parameter(torch.empty(*grid[:-1], channels).normal_(std=0.02))
        self.time = nn.Parameter(torch.empty(grid[-1], channels).normal_(std=0.02))
        self.frame_seconds, self.table_seconds = frame_seconds, table_seconds

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the positions to tokens (B, *grid, T, C).

        Raises:
            ValueError: the grid has other axes or other sizes in space.
        """
        if tokens.shape[1:-2] != self.space.shape[:-1]:
            raise ValueError(
                f"tokens of a grid of {tuple(tokens.shape[1:-2])} in space, this table of positions is for "
                f"{tuple(self.space.shape[:-1])}: give images of the size that the network was built for"
            )
        return tokens + self.space[..., None, :] + self.at_frames(tokens.shape[-2])

    def at_frames(self, frames: int) -> Tensor:
        """Return the vectors of the frames of a clip, (T, C)."""
        rows = len(self.time)
        if self.frame_seconds is None:
            return self.time[:frames] if frames <= rows else spread(self.time, (frames,))
        places = torch.arange(frames, device=self.time.device) * (self.frame_seconds / self.table_seconds)
        places = places.clamp(max=rows - 1).to(self.time.dtype)
        low = places.long()
        return torch.lerp(self.time[low], self.time[(low + 1).clamp(max=rows - 1)], (places - low)[:, None])


def spread(table: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return a table of vectors (*old grid, C) at the places of another grid, by linear interpolation along each axis.

    The first and last places stay what they are.

    Example:
        >>> spread(torch.tensor([[0.0], [2.0]]), (3,)).flatten()
        tensor([0., 1., 2.])
    """
    for axis, size in enumerate(grid):
        if table.shape[axis] != size:
            rows = table.movedim(axis, -1)
            flat = rows.reshape(1, -1, rows.shape[-1])
            flat = functional.interpolate(flat, size, mode="linear", align_corners=True)
            table = flat.reshape(*rows.shape[:-1], size).movedim(-1, axis)
    return table
