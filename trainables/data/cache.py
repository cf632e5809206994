"""Decoded samples in one memory-mapped file per node, made once and shared by every process."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from trainables.data.dataset import DataError, Sample, SegmentationDataset, visit_all
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

FORMAT_VERSION = 3
BYTES_PER_PIXEL = 4
_PIXELS = "samples.uint8"


class CachedDataset(SegmentationDataset):
    """Samples read from a cache folder that ``cache_dataset`` wrote.

    Holds only paths and numbers until the first sample is read, so that it pickles small and each
    worker process maps the file by itself; the pages are shared by all of them. A sample is
    compared with its checksum when it is read first.

    Args:
        folder: The cache folder.

    Attributes:
        label_counts: Pixels of each class over all samples; ignored ones are not counted.

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
        self.label_counts: tuple[int, ...] = tuple(index["label_counts"])
        self._names: list[str] = index["names"]
        self._sizes: list[tuple[int, int]] = [(h, w) for h, w in index["sizes"]]
        self._fingerprint = str(index["fingerprint"])
        self._checksums = Checksums(self.folder / _PIXELS, index["checksums"])
        self._offsets = _offsets(self._sizes)
        self._buffer: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the open file."""
        return {**self.__dict__, "_buffer": None}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        """Copy of sample ``index``; see the base class.

        Raises:
            DataError: It is not what was written; the cache is made anew when it is opened next.
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
        DataError: Names the files that cannot be used.
        OSError: The disk is full; says how much space is missing where that is known before.
    """
    if isinstance(dataset, CachedDataset):
        return dataset
    folder = Path(cache_dir) / f"{dataset.name}-{dataset.split}-{dataset.fingerprint[:16]}"
    return obtain_folder(folder, CachedDataset, lambda scratch: _write(dataset, scratch))


def _write(dataset: SegmentationDataset, folder: Path) -> None:
    sizes: list[tuple[int, int]] = [(0, 0)] * len(dataset)
    label_counts = np.zeros((len(dataset), dataset.num_classes), dtype=np.int64)
    checksums = [0] * len(dataset)

    def measure(index: int) -> None:
        sizes[index] = dataset.sample_size(index)

    visit_all(dataset, measure)
    offsets = _offsets(sizes)
    num_bytes = int(offsets[-1])
    announce_disk_use(
        folder,
        num_bytes,
        content=f"{len(dataset)} samples of {dataset.name!r} ({dataset.split})",
        remedy="choose another cache folder or a smaller size",
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
            labels = np.bincount(target.numpy().ravel(), minlength=dataset.num_classes)
            label_counts[index] = labels[: dataset.num_classes]
            content = image.numpy().tobytes() + target.numpy().tobytes()
            checksums[index] = zlib.crc32(content)
            write_at(descriptor, content, int(offsets[index]))

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
        "checksums": checksums,
        "label_counts": label_counts.sum(axis=0).tolist(),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _read_index(folder: Path) -> dict[str, Any]:
    index = read_index(folder, FORMAT_VERSION)
    check_file_size(folder / _PIXELS, int(_offsets(index["sizes"])[-1]))
    return index


def _offsets(sizes: list[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First byte of every sample, and behind the last the size of the whole file."""
    return offsets_of([BYTES_PER_PIXEL * height * width for height, width in sizes])
