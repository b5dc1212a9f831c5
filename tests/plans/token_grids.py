"""Where the tokens of planned Swin encoders lie, written apart from the library."""

from collections.abc import Sequence


def needs_no_padding(patch_size: Sequence[int], strides: Sequence[Sequence[int]], window: Sequence[int]) -> bool:
    """Whether every stage has whole tokens, on each axis no more than a window or a multiple of it."""
    grid = tuple(float(size) for size in patch_size)
    for stride in strides[1:]:
        grid = tuple(size / step for size, step in zip(grid, stride))
        if any(n != int(n) or (n > size and n % size) for n, size in zip(grid, window)):
            return False
    return True
