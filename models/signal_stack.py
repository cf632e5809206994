"""Keeps the stack on which a thread's signal handlers run, which OpenVINO replaces."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its alternate signal stack back after the block.

    OpenVINO (2026.4) sets a stack of its own when it compiles a network, and the earlier one when
    that network is freed. If two networks are not freed in reverse order, the thread is left with
    a stack that no longer exists, and the next signal, Ctrl-C for example, crashes the process.
    """
    earlier = read_signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(earlier), None)


def read_signal_stack() -> SignalStack:
    """Read the alternate signal stack of this thread."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack
