"""Saves a training's state before the process ends, such as when a spot machine is reclaimed.

Ray ends a worker at once on SIGTERM. The interpreter then runs its exit handlers in the main
thread, while the training continues in its own thread. The exit handler here waits up to
`SAVE_SECONDS` for the training to save its state.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SAVE_SECONDS = 30.0  # EC2 gives two minutes of notice, Kubernetes 30 s

_is_ending = threading.Event()
_nothing_to_save = threading.Event()
_nothing_to_save.set()


@contextmanager
def saving_before_the_end() -> Iterator[None]:
    """Hold back the end of the process until `note_saved` is called or the block is left."""
    _wait_at_exit()
    _nothing_to_save.clear()
    try:
        yield
    finally:
        _nothing_to_save.set()


def must_save() -> bool:
    """Return whether the process is ending and waits for the training to save its state."""
    return _is_ending.is_set() and not _nothing_to_save.is_set()


def note_saved() -> None:
    """Say that the state is saved, in storage too. If the process is ending, this never returns."""
    if _is_ending.is_set():
        _nothing_to_save.set()
        while True:  # a thread that continues inside PyTorch would crash the ending interpreter
            time.sleep(SAVE_SECONDS)


@cache
def _wait_at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    _is_ending.set()
    _nothing_to_save.wait(SAVE_SECONDS)
