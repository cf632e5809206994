"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from models.files.storage import patiently


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the target and rename: a crash leaves the old file or the new one.

    Content and name have reached the disk on return. A storage that does not answer is waited for.

    Args:
        path: File to replace, in a folder that is there.
        content: A text is written as UTF-8, its line ends as they are.

    Raises:
        OSError: The file could not be written, and is as it was; the error bears its name.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        patiently(lambda: _write(path, temporary, data))
    except BaseException as error:
        with contextlib.suppress(OSError):  # of a storage that does not answer
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a write that fails names no file
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
