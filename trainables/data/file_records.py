"""Records of each file of a data set: hash of its bytes, size, depth, range of values.

A data set is identified by its bytes, so that changed masks are noticed even if they have the same
size and date. Files that did not change are not read again. A file did not change if device, inode,
size, time of modification *and time of status change* are the same. Any program can set the
modification time, but only the system sets the status-change time, at every write, rename and
change of times. Two writes in one tick of the clock have the same time, so a record is kept only if
the file was at least two seconds old when it was read.

The records are kept in memory and, if making them took long, in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from trainables.data.dataset import DataError, UnreadableFileError
from trainables.data.image_decoding import ImageHeader, decode_pixels, read_header
from trainables.data.value_range import ValueRange
from trainables.process.watchdog import note_progress

logger = logging.getLogger(__name__)

Identity = tuple[int, int, int, int, int]
FORMAT_VERSION = 1
_SETTLED_AFTER_NS = 2_000_000_000
_WORTH_KEEPING_S = 1.0

_records: dict[Identity, FileRecord] = {}
_ranges: dict[str, tuple[ValueRange, bool]] = {}
_loaded_books: set[Path] = set()


class FileRecord(NamedTuple):
    """Record of an image file or mask file.

    Attributes:
        digest: SHA-256 of the bytes in hexadecimal.
        header: Size, orientation and depth; None if the file is not an image.
        problem: Why it is not an image; None if its header is that of an image.
    """

    digest: str
    header: ImageHeader | None
    problem: str | None = None

    def require_header(self) -> ImageHeader:
        """Return the header.

        Raises:
            UnreadableFileError: The file is not an image.
        """
        if self.header is None:
            raise UnreadableFileError(str(self.problem))
        return self.header


def identify(path: Path) -> Identity:
    """Return values that change whenever a file changes; see the module.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    try:
        return _identity(path.stat())
    except OSError as error:
        raise DataError(f"{path}: file is missing or cannot be read ({error.strerror})") from error


def identify_all(paths: Iterable[Path]) -> tuple[Identity, ...]:
    """Apply `identify` to many files or folders.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    return tuple(identify(path) for path in paths)


def are_settled(identities: Iterable[Identity]) -> bool:
    """Return whether the next change of any of these files or folders will get another time."""
    latest = max((max(identity[3:]) for identity in identities), default=0)
    return time.time_ns() - latest > _SETTLED_AFTER_NS


def read_file(path: Path) -> tuple[bytes, FileRecord]:
    """Return the bytes of a file and their record.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            settled = are_settled([identity])
            content = file.read()
            is_same = _identity(os.fstat(file.fileno())) == identity
    except OSError as error:
        raise DataError(f"{path}: file is missing or cannot be read ({error.strerror})") from error
    if not is_same:
        raise DataError(f"{path}: changed while it was read; start again when it is complete")
    record = _records.get(identity)
    if record is None:
        record = _describe(content, path)
        if settled:
            _records[identity] = record
    return content, record


def record_of(path: Path) -> FileRecord:
    """Return the record of a file, which is read only if it changed since the last call.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    known = _records.get(identify(path))
    return read_file(path)[1] if known is None else known


def records_of(paths: Sequence[Path]) -> list[FileRecord]:
    """Return the records of many files, which are read in parallel.

    Args:
        paths: Paths of the files.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    book = _book_of(paths)
    _load_book(book)
    started = time.perf_counter()

    def record(index: int) -> FileRecord:
        note_progress(f"file {index + 1} of {len(paths)} of the data set")
        return record_of(paths[index])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        records = list(pool.map(record, range(len(paths))))
    if time.perf_counter() - started > _WORTH_KEEPING_S:
        _keep_book(book, paths)
    return records


def measure_ranges(paths: Sequence[Path]) -> tuple[list[ValueRange], bool]:
    """Return the smallest and largest value of each image above 8 bits, and whether any has floats.

    Args:
        paths: Paths of image files; 8-bit images are left out.

    Raises:
        DataError: A file cannot be read.
    """
    started = time.perf_counter()
    records = records_of(paths)
    deep = [
        (path, record.digest)
        for path, record in zip(paths, records, strict=True)
        if record.header is not None and record.header.is_deep
    ]

    def measure(item: tuple[Path, str]) -> tuple[ValueRange, bool] | None:
        path, digest = item
        if digest not in _ranges:
            note_progress(f"range of values of {path}")
            content, _ = read_file(path)
            try:
                pixels = decode_pixels(content, path)
            except UnreadableFileError:  # reported when the sample itself is read
                return None
            values = (float(pixels.min()), float(pixels.max()))
            _ranges[digest] = (values, pixels.dtype.kind == "f")
        return _ranges[digest]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = [measured for measured in pool.map(measure, deep) if measured is not None]
    if time.perf_counter() - started > _WORTH_KEEPING_S:
        _keep_book(_book_of(paths), paths)
    return [values for values, _ in found], any(is_float for _, is_float in found)


def _book_of(paths: Iterable[Path]) -> Path:
    """Return the file in the user's cache folder that stores the records of these files."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    names = "\0".join(str(path.absolute()) for path in paths)
    name = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    return cache / "segfront" / "file_records" / f"{name}.json"


def _identity(status: os.stat_result) -> Identity:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times)


def _describe(content: bytes, path: Path) -> FileRecord:
    digest = hashlib.sha256(content).hexdigest()
    try:
        return FileRecord(digest, read_header(content, path))
    except UnreadableFileError as error:
        return FileRecord(digest, None, str(error))


def _load_book(book: Path) -> None:
    """Read the records of earlier processes once; an unreadable book is ignored."""
    if book in _loaded_books:
        return
    _loaded_books.add(book)
    try:
        content: dict[str, Any] = json.loads(book.read_text(encoding="utf-8"))
        if content["format_version"] == FORMAT_VERSION:
            for *identity, digest, header in content["records"]:
                _records[_to_identity(identity)] = FileRecord(digest, ImageHeader(*header))
            for digest, low, high, is_float in content["ranges"]:
                _ranges[digest] = ((low, high), is_float)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("%s is not used: %s", book, error)


def _keep_book(book: Path, paths: Sequence[Path]) -> None:
    """Write the records of the files by one rename, if the cache folder is writable."""
    records, ranges = [], []
    for path in paths:
        identity = identify(path)
        record = _records.get(identity)
        if record is None or record.header is None:
            continue
        records.append([*identity, record.digest, list(record.header)])
        if record.digest in _ranges:
            (low, high), is_float = _ranges[record.digest]
            ranges.append([record.digest, low, high, is_float])
    content = {"format_version": FORMAT_VERSION, "records": records, "ranges": ranges}
    try:
        book.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=book.parent, delete=False) as file:
            json.dump(content, file)
        Path(file.name).replace(book)
    except OSError as error:
        logger.debug("records of files are not kept: %s", error)


def _to_identity(numbers: Sequence[int]) -> Identity:
    device, inode, size, modified, changed = (int(number) for number in numbers)
    return device, inode, size, modified, changed
