"""Locks of files that the kernel releases when their process ends, however it ends."""

from __future__ import annotations

import fcntl

from trainables.process.watchdog import waiting


def lock(descriptor: int, mode: int) -> None:
    """Lock an open file; waiting for another process is no lack of progress.

    Args:
        descriptor: Of the file.
        mode: fcntl.LOCK_SH or fcntl.LOCK_EX.
    """
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        with waiting():
            fcntl.flock(descriptor, mode)
