"""A teacher's logits of all training images, or its maps at one layer, in one file per node."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.data.dataset import DataError, SegmentationDataset, hash_content
from trainables.data.logit_map import LogitMap, num_cells
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
from trainables.data.top_logits import num_channels, pack_top, unpack_top

FORMAT_VERSION = 3
BYTES_PER_LOGIT = 2
LARGEST_LOGIT = float(np.finfo(np.float16).max)
_LOGITS = "logits.float16"


class TeacherLogits:
    """Teacher logits, or the maps of one of its layers, from a folder that `cache_logits` wrote.

    It holds only paths and numbers until the first map is read, so that its pickle is small and
    each worker process maps the file itself; the processes share the memory pages. A map's checksum
    is verified when it is first read.

    Args:
        folder: Path of the cache folder.
        content: Expected description of teacher and data set in the folder's index.

    Raises:
        DataError: The folder is missing, damaged, of another format, or for another teacher, layer,
            data set, stride or top_k.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.content = dict(content)
        index = read_index(folder, FORMAT_VERSION)
        found = index.get("content")
        if found != json.loads(json.dumps(self.content)):
            raise DataError(f"{folder}: cache is for {found!r}; expected {self.content!r}")
        self.stride = int(content["stride"])
        self.top_k: int | None = content.get("top_k")
        self._num_values = int(index["num_values"])
        self._channels = num_channels(self._num_values, self.top_k)
        self._sizes: list[tuple[int, int]] = [(h, w) for h, w in index["sizes"]]
        self._offsets = _offsets(_shapes(self._channels, self._sizes, self.stride))
        check_file_size(folder / _LOGITS, int(self._offsets[-1]))
        self._checksums = Checksums(folder / _LOGITS, index["checksums"])
        self._buffer: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open file."""
        return {**self.__dict__, "_buffer": None}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._sizes)

    def __getitem__(self, index: int) -> LogitMap:
        """Return the map of image `index`, (C, ceil(H / stride), ceil(W / stride)) float16.

        In a cache of the top_k logits, all other logits of a cell are equal; see `pack_top`.

        Raises:
            DataError: The map is damaged; the cache is rebuilt when it is opened next.
        """
        if self._buffer is None:
            # Mode "c": torch needs writable memory; writes do not reach the file.
            self._buffer = np.memmap(self.folder / _LOGITS, dtype=np.uint8, mode="c")
        index = range(len(self))[index]
        size = self._sizes[index]
        (shape,) = _shapes(self._channels, [size], self.stride)
        content = self._buffer[self._offsets[index] : self._offsets[index + 1]]
        self._checksums.check(index, content, f"the map of image {index}")
        logits = torch.from_numpy(content.view(np.float16).reshape(shape))
        if self.top_k is not None:
            logits = unpack_top(logits, self._num_values)
        return LogitMap(logits, size_in_pixels=size, cell_stride=self.stride)

    def check_fits(self, dataset: SegmentationDataset) -> None:
        """Check that the logits belong to a data set.

        Raises:
            ValueError: The logits belong to another data set.
        """
        expected = self.content["dataset"]
        if dataset.fingerprint != expected or len(dataset) != len(self):
            raise ValueError(
                f"teacher's logits in {self.folder} belong to data set {expected} with {len(self)} "
                f"images; got {dataset.fingerprint} with {len(dataset)}"
            )


def cache_logits(
    dataset: SegmentationDataset,
    cache_dir: Path,
    content: Mapping[str, Any],
    compute: Callable[[int], Tensor],
) -> TeacherLogits:
    """Compute the logits of every image once per node, or open them if they exist.

    Args:
        dataset: Data set of the images.
        cache_dir: Folder on a local disk; it gets one subfolder per content.
        content: Everything that the logits depend on, JSON-serialisable, including "dataset" (its
            fingerprint) and "stride", and "top_k" if only the largest logits are stored. For the
            maps of a layer it has "layer" (its name) and "channels" too.
        compute: Function that maps the index of an image to its map, (C, ceil(H / stride), ceil(W /
            stride)) float.

    Raises:
        DataError: A logit is not finite.
        OSError: The disk does not have enough space.
        ValueError: The shape of a map does not fit the size of its image.
    """
    key = hash_content({"format_version": FORMAT_VERSION, **content})
    return obtain_folder(
        cache_dir / f"teacher-logits-{key[:20]}",
        lambda folder: TeacherLogits(folder, content),
        lambda scratch: _write(dataset, scratch, content, compute),
    )


def _write(
    dataset: SegmentationDataset,
    folder: Path,
    content: Mapping[str, Any],
    compute: Callable[[int], Tensor],
) -> None:
    stride, top_k = int(content["stride"]), content.get("top_k")
    sizes = [dataset.sample_size(index) for index in range(len(dataset))]
    num_values = int(content.get("channels", dataset.num_classes))
    computed = _shapes(num_values, sizes, stride)
    offsets = _offsets(_shapes(num_channels(num_values, top_k), sizes, stride))
    what = "logits" if top_k is None else f"{top_k} largest logits"
    remedy = "choose a larger stride, fewer of the logits (top-k), or a live teacher"
    if "layer" in content:
        what = f"maps with {num_values} channels at layer {content['layer']}"
        remedy = "run the teacher at every step instead (--pipeline.teacher-logits.maps live)"
    announce_disk_use(
        folder,
        int(offsets[-1]),
        content=f"the teacher's {what} of {len(dataset)} images at stride {stride}",
        remedy=f"choose another cache folder, or {remedy}",
    )
    checksums = []
    with (folder / _LOGITS).open("wb") as file:
        file.truncate(int(offsets[-1]))
        for index, shape in enumerate(computed):
            logits = compute(index)
            if tuple(logits.shape) != shape:
                raise ValueError(f"map of image {index} must be {shape}; got {tuple(logits.shape)}")
            if not bool(logits.isfinite().all()):
                name = dataset.sample_name(index)
                raise DataError(f"{name}: the teacher's {what} are not finite")
            if top_k is not None:
                logits = pack_top(logits.float(), top_k)
            halves = logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT).to("cpu", torch.float16)
            written = halves.numpy().tobytes()
            checksums.append(zlib.crc32(written))
            write_at(file.fileno(), written, int(offsets[index]))
        os.fsync(file.fileno())
    description = {
        "format_version": FORMAT_VERSION,
        "content": content,
        "num_values": num_values,
        "sizes": sizes,
        "checksums": checksums,
    }
    (folder / INDEX_FILE).write_text(json.dumps(description), encoding="utf-8")


def _shapes(
    channels: int, sizes: Sequence[tuple[int, int]], stride: int
) -> list[tuple[int, int, int]]:
    return [(channels, num_cells(h, stride), num_cells(w, stride)) for h, w in sizes]


def _offsets(shapes: list[tuple[int, int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return offsets_of([BYTES_PER_LOGIT * c * height * width for c, height, width in shapes])
