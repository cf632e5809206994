"""Errors of disks and network storage: retries while storage is away, and clear messages."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 150.0  # less than the watchdog's shortest limit
LONGEST_PAUSE = 15.0

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk's quota is used up"}
# Errors of NFS and other network file systems while their server is away.
UNREACHABLE = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EREMOTEIO,
    errno.ENOLCK,
}  # fmt: skip


def patiently(work: Callable[[], T]) -> T:
    """Call a function that uses files, and retry while their storage does not respond.

    Args:
        work: Function to call, possibly several times.

    Raises:
        OSError: The error is of another kind, or the storage did not respond for
            `PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = 1.0
    while True:
        try:
            return work()
        except OSError as error:
            if error.errno not in UNREACHABLE or time.monotonic() + pause > deadline:
                raise
            logger.warning("%s; trying again in %g s", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def explain_storage_error(error: BaseException) -> str:
    """Explain in one line which storage failed and what to do; empty if none failed.

    Args:
        error: Any exception; the exceptions that it was raised from are searched too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            where = f"{cause.filename or 'a file'} on {socket.gethostname()}"
            if cause.errno in FULL:
                return f"{FULL[cause.errno]}: {cause.strerror} at {where}; make room there"
            if cause.errno == errno.EROFS:
                return f"the disk cannot be written to: {where}; mount it for writing"
            if cause.errno in UNREACHABLE:
                return f"the storage does not answer ({cause.strerror}): {where}; bring it back"
        cause = cause.__cause__
    return ""
