"""Decoded samples in one memory-mapped file per node, written once and shared by all processes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from trainables.data.dataset import (
    DataError,
    Sample,
    SegmentationDataset,
    UnreadableFileError,
    visit_all,
)
from trainables.data.node_cache import (
    INDEX_FILE,
    Checksums,
    announce_disk_use,
    check_file_size,
    obtain_folder,
    offsets_of,
    read_index,
    write_at,
)
from trainables.data.palette import Colour

FORMAT_VERSION = 5
BYTES_PER_PIXEL = 4
LARGEST_UNREADABLE_SHARE = 0.05
_PIXELS = "samples.uint8"


class CachedDataset(SegmentationDataset):
    """Samples from a cache folder that ``cache_dataset`` wrote.

    It holds only paths and numbers until the first sample is read, so that its pickle is small and
    each worker process maps the file itself; the processes share the memory pages. A sample's
    checksum is verified when it is first read.

    Args:
        folder: Path of the cache folder.

    Attributes:
        source_name: Key in ``DATASETS`` of the data set that was cached.
        label_counts: Number of pixels of each class over all samples, without ignored pixels.
        num_ignored: Number of ignored pixels over all samples.
        image_digests: Hash of each decoded image; equal images have equal hashes.
        has_one_class: True if the user named one class, which is distinguished from a background.

    Raises:
        DataError: The folder is missing or of another format, or its file is truncated.
    """

    name: ClassVar[str] = "cached"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.classes = tuple(index["classes"])
        self.split = str(index["split"])
        self.source_name = str(index["name"])
        self.label_counts: tuple[int, ...] = tuple(index["label_counts"])
        self.num_ignored = int(index["num_ignored"])
        self.image_digests: tuple[str, ...] = tuple(index["image_digests"])
        self._names: list[str] = index["names"]
        self._sizes: list[tuple[int, int]] = [(h, w) for h, w in index["sizes"]]
        self._fingerprint = str(index["fingerprint"])
        self._warnings: tuple[str, ...] = tuple(index["warnings"])
        self._colours: tuple[Colour, ...] = tuple((r, g, b) for r, g, b in index["colours"])
        self._checksums = Checksums(self.folder / _PIXELS, index["checksums"])
        self._offsets = _offsets(self._sizes)
        self._buffer: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open file."""
        return {**self.__dict__, "_buffer": None}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        """Return a copy of sample ``index``; see the base class.

        Raises:
            DataError: The sample is damaged; the cache is rebuilt when it is opened next.
        """
        if self._buffer is None:
            self._buffer = np.memmap(self.folder / _PIXELS, dtype=np.uint8, mode="r")
        index = range(len(self))[index]
        height, width = self._sizes[index]
        begin = int(self._offsets[index])
        content = np.array(self._buffer[begin : begin + BYTES_PER_PIXEL * height * width])
        self._checksums.check(index, content, f"sample {self.sample_name(index)}")
        image = content[: 3 * height * width].reshape(3, height, width)
        target = content[3 * height * width :].reshape(height, width)
        return Sample(torch.from_numpy(image), torch.from_numpy(target))

    def sample_name(self, index: int) -> str:
        """Return the name of sample ``index`` in the original data set."""
        return self._names[index]

    def sample_size(self, index: int) -> tuple[int, int]:
        """Return height and width of sample ``index`` in pixels."""
        return self._sizes[index]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set that was cached."""
        return self._fingerprint

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of the data set that was cached."""
        return self._colours

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the data set that was cached, and on samples that were left out."""
        return self._warnings

    def describe_as(self, dataset: SegmentationDataset) -> None:
        """Take over what the fingerprint does not cover, such as warnings about lists.

        Args:
            dataset: Data set of the same fingerprint.
        """
        self.has_one_class = dataset.has_one_class
        self._warnings = (*dataset.warnings, *self._warnings)


def cache_dataset(dataset: SegmentationDataset, cache_dir: str | Path) -> CachedDataset:
    """Decode a data set once per node and check every sample while doing so.

    Samples whose files are not complete images are left out with a warning. This is allowed for one
    sample or for up to 5 % of the samples, but not for all.

    The first process decodes and the others wait for it; the result appears by one rename. A cache
    that is truncated or of an older format is rebuilt.

    Args:
        dataset: Data set to decode.
        cache_dir: Folder on a local disk; it gets one subfolder per fingerprint.

    Returns:
        The same samples, from the memory-mapped cache.

    Raises:
        DataError: Files cannot be used; the message names them.
        OSError: The disk is full; if known in advance, the message says how much space is missing.
    """
    if isinstance(dataset, CachedDataset):
        return dataset
    folder = Path(cache_dir) / f"{dataset.name}-{dataset.split}-{dataset.fingerprint[:16]}"
    cached = obtain_folder(folder, CachedDataset, lambda scratch: _write(dataset, scratch))
    cached.describe_as(dataset)
    return cached


def _write(dataset: SegmentationDataset, folder: Path) -> None:
    unreadable = _Unreadable(dataset)
    sizes: list[tuple[int, int]] = [(0, 0)] * len(dataset)

    def measure(index: int) -> None:
        sizes[index] = dataset.sample_size(index)

    visit_all(dataset, unreadable.leave_out(measure))
    num_bytes = int(_offsets(sizes)[-1])
    announce_disk_use(
        folder,
        num_bytes,
        content=f"{len(dataset)} samples of {dataset.name!r} ({dataset.split})",
        remedy="choose another cache folder or a smaller size",
    )
    path = folder / _PIXELS
    with path.open("w+b") as file:
        file.truncate(num_bytes)
        decoder = _Decoder(dataset, sizes, file.fileno())
        visit_all(dataset, unreadable.leave_out(decoder.decode))
        kept = unreadable.kept()
        if len(kept) < len(dataset):
            _close_gaps(file.fileno(), sizes, kept)
        os.fsync(file.fileno())
    counts = decoder.label_counts[kept].sum(axis=0).tolist()
    index = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "split": dataset.split,
        "classes": list(dataset.classes),
        "colours": dataset.colours,
        "fingerprint": dataset.fingerprint,
        "names": [dataset.sample_name(i) for i in kept],
        "sizes": [sizes[i] for i in kept],
        "checksums": [decoder.checksums[i] for i in kept],
        "image_digests": [decoder.image_digests[i] for i in kept],
        "label_counts": counts[: dataset.num_classes],
        "num_ignored": counts[dataset.ignore_index],
        "warnings": unreadable.warnings(),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


class _Decoder:
    """Decodes samples into the file of a cache, and collects their statistics and checksums."""

    def __init__(
        self, dataset: SegmentationDataset, sizes: list[tuple[int, int]], descriptor: int
    ) -> None:
        self.dataset = dataset
        self.sizes = sizes
        self.descriptor = descriptor
        self.offsets = _offsets(sizes)
        self.label_counts = np.zeros((len(dataset), 256), dtype=np.int64)
        self.checksums = [0] * len(dataset)
        self.image_digests = [""] * len(dataset)

    def decode(self, index: int) -> None:
        image, target = self.dataset[index]
        size = self.sizes[index]
        if target.shape != size or image.shape != (3, *size):
            raise DataError(
                f"{self.dataset.sample_name(index)}: image {tuple(image.shape)} and target "
                f"{tuple(target.shape)} do not fit the size {size} in its file header"
            )
        self.label_counts[index] = np.bincount(target.numpy().ravel(), minlength=256)
        pixels = image.numpy().tobytes()
        content = pixels + target.numpy().tobytes()
        self.checksums[index] = zlib.crc32(content)
        self.image_digests[index] = hashlib.sha256(pixels).hexdigest()[:32]
        write_at(self.descriptor, content, int(self.offsets[index]))


class _Unreadable:
    """The samples whose files are not complete images; only a few may be left out."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset
        self._problems: dict[int, str] = {}
        self._lock = threading.Lock()
        self._most = max(1, int(LARGEST_UNREADABLE_SHARE * len(dataset)))

    def leave_out(self, visit: Callable[[int], None]) -> Callable[[int], None]:
        """Wrap a function of a sample to skip unreadable samples, as long as they are few."""

        def attempt(index: int) -> None:
            if index in self._problems:
                return
            try:
                visit(index)
            except UnreadableFileError as error:
                with self._lock:
                    self._problems[index] = str(error)
                    count = len(self._problems)
                if count > self._most or count == len(self._dataset):
                    raise

        return attempt

    def kept(self) -> list[int]:
        """Return the indices of the samples that were read."""
        return [index for index in range(len(self._dataset)) if index not in self._problems]

    def warnings(self) -> list[str]:
        """Return one sentence if samples were left out, else nothing."""
        if not self._problems:
            return []
        named = "; ".join(self._problems[index] for index in sorted(self._problems)[:3])
        more = len(self._problems) - 3
        return [
            f"{len(self._problems)} of {len(self._dataset)} samples of {self._dataset.split!r} "
            f"cannot be read and are left out: {named}{f'; and {more} more' if more > 0 else ''}"
        ]


def _close_gaps(descriptor: int, sizes: list[tuple[int, int]], kept: list[int]) -> None:
    """Move the kept samples together in the file."""
    old, new = _offsets(sizes), _offsets([sizes[index] for index in kept])
    for place, index in enumerate(kept):
        length = int(new[place + 1] - new[place])
        write_at(descriptor, os.pread(descriptor, length, int(old[index])), int(new[place]))
    os.ftruncate(descriptor, int(new[-1]))


def _read_index(folder: Path) -> dict[str, Any]:
    index = read_index(folder, FORMAT_VERSION)
    check_file_size(folder / _PIXELS, int(_offsets(index["sizes"])[-1]))
    return index


def _offsets(sizes: list[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the offset of every sample in bytes, followed by the size of the whole file."""
    return offsets_of([BYTES_PER_PIXEL * height * width for height, width in sizes])
