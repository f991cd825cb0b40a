"""Tells glibc to keep the memory that a step of training or sampling frees for the next one."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h; both take bytes as an int.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed blocks to the kernel, for the rest of the process; True when it will do so.

    By default, blocks above 32 MB go back at once, and smaller ones with the top of the heap. A step on the CPU asks
    for the same again, and the kernel clears every page anew: up to half of the time (docs/log.md).
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(option, LARGEST) for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
