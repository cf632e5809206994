"""Locks between processes, which the kernel releases when their holder ends for any reason.

We do not use filelock: its `FileLock` has no shared mode, and its `ReadWriteLock` is a transaction
in SQLite, which takes 600 µs where flock takes 4 (Intel Xeon, 2026-11-26). Every training step
takes two shared locks (`trainables.process.device_lock`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.process.watchdog import waiting


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file; the watchdog does not count the time spent waiting for it.

    Source: flock(2).

    Args:
        path: Lock file, made if missing; it stays, empty.
        shared: Hold it together with others that hold it shared, rather than alone.
        wait: Wait while another process holds it.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is False.
        OSError: The file cannot be opened.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            with waiting():
                fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)
