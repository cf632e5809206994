"""Checksums of files, each read once per process for as long as it stays as it is."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_SETTLED_AFTER = 2_000_000_000
"""Nanoseconds: coarser than the clock of any file system that a change would be dated by."""

_known: dict[tuple[int, ...], str] = {}


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    A file that was not touched since it was read is not read again: neither its inode nor its size
    nor its times of change have changed then. One that was written just now is always read, for two
    writes in one tick of the clock bear the same time.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        changed = (status.st_mtime_ns, status.st_ctime_ns)
        identity = (status.st_dev, status.st_ino, status.st_size, *changed)
        found = _known.get(identity)
        if found is not None:
            return found
        settled = time.time_ns() - max(changed) > _SETTLED_AFTER
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if settled:
            _known[identity] = digest
    return digest
