"""Folders that one process of a node makes and all others read: lock, scratch, rename."""

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
logger.setLevel(logging.INFO)  # what takes disk is said wherever warnings are

Opened = TypeVar("Opened")
INDEX_FILE = "index.json"


def obtain_folder(
    folder: Path, open_folder: Callable[[Path], Opened], write: Callable[[Path], None]
) -> Opened:
    """Open a folder, or make it if it is missing or damaged.

    The first process that comes makes it, the others wait for it; the result appears by one rename.

    Args:
        folder: Where it lies; its parent is made if missing.
        open_folder: Reads and checks it.
        write: Fills the empty scratch folder that it is given.

    Raises:
        DataError: As `write` raises it.
        OSError: The folder cannot be written; nothing of it is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                return open_folder(folder)
            except DataError as error:
                logger.warning("%s; making it anew", error)
                shutil.rmtree(folder)
        _remove_leftovers(folder)
        started = time.perf_counter()
        scratch = tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent)
        try:
            write(Path(scratch))
            Path(scratch).rename(folder)
        except OSError as error:
            error.filename = error.filename or str(folder)  # a write that fails names no file
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        logger.debug("cached %s in %.1f s", folder, time.perf_counter() - started)
        return open_folder(folder)


def announce_disk_use(folder: Path, num_bytes: int, *, content: str, remedy: str) -> None:
    """Log the disk space that a cache is about to take.

    Args:
        folder: Where it will lie.
        num_bytes: What it takes.
        content: What is cached, for the log and the error.
        remedy: What to do about a full disk.

    Raises:
        OSError: The disk has not the room (ENOSPC).
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
        DataError: It is missing, damaged or of another format.
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
    """Compare the size of a file of the cache with what the index promises.

    Raises:
        DataError: It is missing or of another size.
    """
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path.parent}: cache is incomplete ({error})") from error
    if num_bytes != expected:
        raise DataError(f"{path}: cache has {num_bytes} bytes; expected {expected}")


class Checksums:
    """Compares each part of a cache's file with what was written, when it is read first.

    Args:
        path: The file, beside the cache's index.
        expected: `zlib.crc32` of each part.
    """

    def __init__(self, path: Path, expected: Sequence[int]) -> None:
        self._path = path
        self._expected = expected
        self._is_checked = [False] * len(expected)

    def check(self, index: int, content: np.ndarray[Any, np.dtype[np.uint8]], name: str) -> None:
        """Compare a part.

        Args:
            index: Of the part.
            content: Its bytes.
            name: For the message.

        Raises:
            DataError: It is not what was written; the cache is made anew when it is opened next.
        """
        if self._is_checked[index]:
            return
        if zlib.crc32(content.data) != self._expected[index]:
            self._path.with_name(INDEX_FILE).unlink(missing_ok=True)
            raise DataError(
                f"{self._path}: {name} is not what was written, so the disk or the memory is "
                "failing; the cache will be made anew"
            )
        self._is_checked[index] = True


def offsets_of(num_bytes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First byte of every sample, and behind the last the size of the whole file."""
    return np.concatenate([[0], np.cumsum(num_bytes, dtype=np.int64)]).astype(np.int64)


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of the content; threads may write to one file at different offsets."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left; safe because the lock is held."""
    for path in folder.parent.glob(f"{folder.name}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
