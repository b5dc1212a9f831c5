"""Keeps the C library from giving large buffers back to the system each time."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory(top_pad: int = 64 << 20) -> bool:
    """Lets this process reuse freed buffers of any size instead of asking the system for zeroed pages anew.

    By default glibc maps each buffer above a few MB by itself and unmaps it when it is freed, so that every use pays a
    page fault for each 4 kB. The price is that memory which is free inside the process is not given back until it
    ends. Nothing happens where the C library is not glibc.

    Args:
        top_pad: bytes that are asked for beyond what is needed, each time more is needed.

    Returns:
        Whether the settings were taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGEST, _M_TRIM_THRESHOLD: _LARGEST, _M_TOP_PAD: top_pad}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)
