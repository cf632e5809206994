"""Keep freed memory in the process, which avoids page faults in CPU training steps."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@cache
def keep_freed_memory() -> bool:
    """Make glibc serve large blocks from its heap, and keep them when they are freed.

    By default glibc maps fresh memory for each activation. The kernel zeroes it page by page while
    all threads wait: about 230 000 page faults in one training step of DeepLabV3+ at 8 x 240 x 320.
    The price is that the process keeps its peak memory until it ends.

    The setting holds for the whole process and cannot be undone. Therefore only the owner of the
    process calls this, once: a Ray worker, a command or a benchmark, never a library function.

    Source: mallopt(3).

    Returns:
        Whether the C library accepted the setting; only glibc does.
    """
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
