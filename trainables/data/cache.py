"""Decoded samples in one memory-mapped file per node, made once and shared by every process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from trainables.data.dataset import DataError, Sample, SegmentationDataset, visit_all

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
BYTES_PER_PIXEL = 4
_PIXELS, _INDEX = "samples.uint8", "index.json"


class CachedDataset(SegmentationDataset):
    """Samples read from a cache folder that ``cache_dataset`` wrote.

    Holds only paths and numbers until the first sample is read, so that it pickles small and each
    worker process maps the file by itself; the pages are shared by all of them.

    Args:
        folder: The cache folder.

    Raises:
        DataError: The folder is missing, of another format, or its file is truncated.
    """

    name: ClassVar[str] = "cached"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.classes = tuple(index["classes"])
        self.split = str(index["split"])
        self.source_name = str(index["name"])
        self._names: list[str] = index["names"]
        self._sizes: list[tuple[int, int]] = [(h, w) for h, w in index["sizes"]]
        self._fingerprint = str(index["fingerprint"])
        self._offsets = _offsets(self._sizes)
        self._buffer: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the open file."""
        return {**self.__dict__, "_buffer": None}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        """Copy of sample ``index``; see the base class."""
        if self._buffer is None:
            self._buffer = np.memmap(self.folder / _PIXELS, dtype=np.uint8, mode="r")
        index = range(len(self))[index]
        height, width = self._sizes[index]
        begin = int(self._offsets[index])
        middle = begin + 3 * height * width
        image = np.array(self._buffer[begin:middle]).reshape(3, height, width)
        target = np.array(self._buffer[middle : middle + height * width]).reshape(height, width)
        return Sample(torch.from_numpy(image), torch.from_numpy(target))

    def sample_name(self, index: int) -> str:
        """Name of sample ``index`` in the data set it came from."""
        return self._names[index]

    def sample_size(self, index: int) -> tuple[int, int]:
        """Height and width of sample ``index`` in pixels."""
        return self._sizes[index]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set that was cached."""
        return self._fingerprint


def cache_dataset(dataset: SegmentationDataset, cache_dir: str | Path) -> CachedDataset:
    """Decode a data set once per node and check every sample while doing so.

    The first process that comes decodes, the others wait for it; the result appears by one rename.
    A cache that is truncated or of an older format is made anew.

    Args:
        dataset: What to decode.
        cache_dir: Folder on a disk of this node; one folder per fingerprint is made in it.

    Returns:
        The same samples, from the memory-mapped cache.

    Raises:
        DataError: Names the files that cannot be used, or says how much disk space is missing.
    """
    if isinstance(dataset, CachedDataset):
        return dataset
    root = Path(cache_dir)
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{dataset.name}-{dataset.split}-{dataset.fingerprint[:16]}"
    with _locked(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                return CachedDataset(folder)
            except DataError as error:
                logger.warning("%s; making it anew", error)
                shutil.rmtree(folder)
        _remove_leftovers(folder)
        started = time.perf_counter()
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=root))
        try:
            _write(dataset, scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        logger.info("cached %s in %.1f s", folder, time.perf_counter() - started)
        return CachedDataset(folder)


def _write(dataset: SegmentationDataset, folder: Path) -> None:
    sizes: list[tuple[int, int]] = [(0, 0)] * len(dataset)

    def measure(index: int) -> None:
        sizes[index] = dataset.sample_size(index)

    visit_all(dataset, measure)
    offsets = _offsets(sizes)
    num_bytes = int(offsets[-1])
    free_bytes = shutil.disk_usage(folder).free
    logger.info(
        "caching %d samples of %s (%s): takes %.1f MiB of disk in %s (%.1f MiB free)",
        len(dataset), dataset.name, dataset.split, num_bytes / 2**20, folder.parent,
        free_bytes / 2**20,
    )  # fmt: skip
    if num_bytes > free_bytes:
        raise DataError(
            f"{folder.parent}: the cache of {dataset.name!r} ({dataset.split}) takes {num_bytes} "
            f"bytes of disk but only {free_bytes} are free; choose another cache folder or a "
            "smaller size"
        )
    path = folder / _PIXELS
    with path.open("wb") as file:
        file.truncate(num_bytes)
        descriptor = file.fileno()

        def decode(index: int) -> None:
            image, target = dataset[index]
            if target.shape != sizes[index] or image.shape != (3, *sizes[index]):
                raise DataError(
                    f"{dataset.sample_name(index)}: image {tuple(image.shape)} and target "
                    f"{tuple(target.shape)} do not fit the size {sizes[index]} in its file header"
                )
            content = image.numpy().tobytes() + target.numpy().tobytes()
            _write_at(descriptor, content, int(offsets[index]))

        visit_all(dataset, decode)
        os.fsync(descriptor)
    index = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "split": dataset.split,
        "classes": list(dataset.classes),
        "fingerprint": dataset.fingerprint,
        "names": [dataset.sample_name(i) for i in range(len(dataset))],
        "sizes": sizes,
    }
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        num_bytes = (folder / _PIXELS).stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cache is incomplete ({error})") from error
    version = index.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(f"{folder}: cache has format {version!r}; allowed is {FORMAT_VERSION}")
    expected = int(_offsets(index["sizes"])[-1])
    if num_bytes != expected:
        raise DataError(f"{folder / _PIXELS}: cache has {num_bytes} bytes; expected {expected}")
    return index


def _offsets(sizes: list[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First byte of every sample, and behind the last the size of the whole file."""
    num_bytes = [BYTES_PER_PIXEL * height * width for height, width in sizes]
    return np.concatenate([[0], np.cumsum(num_bytes, dtype=np.int64)]).astype(np.int64)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left; safe because the lock is held."""
    for path in folder.parent.glob(f"{folder.name}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that the system releases when its process ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
