"""A process that is asked to end, as on a machine that is taken back, saves its training first.

Ray answers SIGTERM by ending the worker at once: the interpreter's exit handlers run in the main
thread while the training goes on in its own, which has until `SAVE_SECONDS` to save its state.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SAVE_SECONDS = 30.0  # EC2 gives two minutes, Kubernetes 30 s

_is_ending = threading.Event()
_nothing_to_save = threading.Event()
_nothing_to_save.set()


@contextmanager
def saving_before_the_end() -> Iterator[None]:
    """Train; the end of the process waits until `note_saved` is called or the training is over."""
    _wait_at_exit()
    _nothing_to_save.clear()
    try:
        yield
    finally:
        _nothing_to_save.set()


def must_save() -> bool:
    """Whether the process is about to end and waits for the training's state."""
    return _is_ending.is_set() and not _nothing_to_save.is_set()


def note_saved() -> None:
    """Say that the state is on the disk; a process that is to end does, and this waits for it."""
    if _is_ending.is_set():
        _nothing_to_save.set()
        while True:  # a thread within PyTorch would crash the interpreter that ends around it
            time.sleep(SAVE_SECONDS)


@cache
def _wait_at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    _is_ending.set()
    _nothing_to_save.wait(SAVE_SECONDS)
