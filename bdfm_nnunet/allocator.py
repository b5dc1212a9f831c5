"""Setting of the C library that keeps large buffers for reuse."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory(top_pad: int = 64 << 20) -> bool:
    """Let this process reuse freed buffers of any size instead of requesting new zeroed pages.

    By default glibc maps each buffer above a few MB separately and unmaps it when it is freed, so every use costs a
    page fault per 4 kB. The price of reuse is that free memory is returned to the system only when the process ends.
    Without glibc the function does nothing.

    Args:
        top_pad: extra bytes to request whenever more memory is needed.

    Returns:
        Whether the C library accepted the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGEST, _M_TRIM_THRESHOLD: _LARGEST, _M_TOP_PAD: top_pad}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)
