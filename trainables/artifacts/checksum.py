"""Checksums of files; a process reads each file again only after it has changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_SETTLED_AFTER = 2_000_000_000
"""Nanoseconds; longer than one tick of any file system's clock."""

_known: dict[tuple[int, ...], str] = {}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal.

    A file is not read again while its inode, size and times of change stay the same. A file that
    was written a moment ago is always read, because two writes within one tick of the file system's
    clock have the same time.

    Args:
        path: Path of the file.

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
