"""Cache folders that one process of a node writes and all others read."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainables.data.dataset import DataError
from trainables.process.file_lock import locked

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # use of disk space is logged wherever warnings are

Opened = TypeVar("Opened")
INDEX_FILE = "index.json"


def obtain_folder(
    folder: Path, open_folder: Callable[[Path], Opened], write: Callable[[Path], None]
) -> Opened:
    """Open a folder, or make it if it is missing or damaged.

    The first process makes it and the others wait for it; the result appears by one rename.

    Args:
        folder: Path of the folder; its parent is made if missing.
        open_folder: Function that reads and checks the folder.
        write: Function that fills an empty scratch folder.

    Raises:
        DataError: `write` raised it.
        OSError: The folder cannot be written; nothing is left of it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                return open_folder(folder)
            except DataError as error:
                logger.warning("%s; rebuilding it", error)
                shutil.rmtree(folder)
        _remove_leftovers(folder)
        started = time.perf_counter()
        scratch = tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent)
        try:
            write(Path(scratch))
            Path(scratch).rename(folder)
        except OSError as error:
            # The error of a failed write does not name the file.
            error.filename = error.filename or str(folder)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        logger.debug("cached %s in %.1f s", folder, time.perf_counter() - started)
        return open_folder(folder)


def announce_disk_use(folder: Path, num_bytes: int, *, content: str, remedy: str) -> None:
    """Log the disk space that a cache is about to take.

    Args:
        folder: Folder of the cache.
        num_bytes: Size of the cache.
        content: Description of the content, for the log and the error.
        remedy: Remedy for a full disk, for the error.

    Raises:
        OSError: The disk does not have enough space (ENOSPC).
    """
    free_bytes = shutil.disk_usage(folder).free
    logger.info(
        "caching %s: takes %.1f MiB of disk (%d bytes) in %s (%.1f MiB free)",
        content, num_bytes / 2**20, num_bytes, folder.parent, free_bytes / 2**20,
    )  # fmt: skip
    if num_bytes > free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"the cache of {content} takes {num_bytes} bytes of disk but only {free_bytes} are "
            f"free; {remedy}",
            str(folder.parent),
        )


def read_index(folder: Path, format_version: int) -> dict[str, Any]:
    """Read the index of a cache folder.

    Raises:
        DataError: The index is missing, damaged or of another format.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cache is incomplete ({error})") from error
    version = index.get("format_version")
    if version != format_version:
        raise DataError(f"{folder}: cache has format {version!r}; allowed is {format_version}")
    return index


def check_file_size(path: Path, expected: int) -> None:
    """Compare the size of a cache file with the size in the index.

    Raises:
        DataError: The file is missing or has another size.
    """
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path.parent}: cache is incomplete ({error})") from error
    if num_bytes != expected:
        raise DataError(f"{path}: cache has {num_bytes} bytes; expected {expected}")


class Checksums:
    """Verifies the checksum of each part of a cache file when it is first read.

    Args:
        path: Path of the file, in the folder of the cache's index.
        expected: Checksum of each part by `zlib.crc32`.
    """

    def __init__(self, path: Path, expected: Sequence[int]) -> None:
        self._path = path
        self._expected = expected
        self._is_checked = [False] * len(expected)

    def check(self, index: int, content: np.ndarray[Any, np.dtype[np.uint8]], name: str) -> None:
        """Verify a part.

        Args:
            index: Index of the part.
            content: Bytes of the part.
            name: Name of the part, for the error message.

        Raises:
            DataError: The part is damaged; the cache is rebuilt when it is opened next.
        """
        if self._is_checked[index]:
            return
        if zlib.crc32(content.data) != self._expected[index]:
            self._path.with_name(INDEX_FILE).unlink(missing_ok=True)
            raise DataError(
                f"{self._path}: {name} is not what was written, so the disk or the memory is "
                "failing; the cache will be rebuilt"
            )
        self._is_checked[index] = True


def offsets_of(num_bytes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the offset of every sample in bytes, followed by the size of the whole file."""
    return np.concatenate([[0], np.cumsum(num_bytes, dtype=np.int64)]).astype(np.int64)


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of the content; threads may write to the same file at different offsets."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _remove_leftovers(folder: Path) -> None:
    """Remove files that a killed process left; safe because the lock is held."""
    for path in folder.parent.glob(f"{folder.name}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
