"""Atomic writing of files: readers see a complete file or none."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from models.files.storage import patiently


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file and rename it: a crash leaves either the old file or the new one.

    Content and name are on the disk when this returns. If the storage does not respond, the write
    is retried.

    Args:
        path: File to replace, in an existing folder.
        content: Content of the file; text is written as UTF-8 without translating line ends.

    Raises:
        OSError: The file could not be written and is unchanged; the error names the file.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        patiently(lambda: _write(path, temporary, data))
    except BaseException as error:
        with contextlib.suppress(OSError):  # the storage may not respond
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # the error of a failed write does not name the file
        raise


def _write(path: Path, temporary: Path, data: bytes) -> None:
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
