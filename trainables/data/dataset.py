"""What every segmentation data set of segfront offers, and the error that names a bad file."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from trainables.process.watchdog import note_progress

IGNORE_INDEX = 255
MAX_REPORTED_PROBLEMS = 10


class DataError(ValueError):
    """A data set cannot be used; the message names the file, the value and what is allowed."""


class Sample(NamedTuple):
    """One image with its labels.

    Attributes:
        image: (3, H, W) uint8, RGB.
        target: (H, W) uint8, train ids; 255 where no class applies.
    """

    image: Tensor
    target: Tensor


class TaughtSample(NamedTuple):
    """One training image with its labels and what the teacher says of it.

    Attributes:
        image: (3, H, W) uint8, RGB.
        target: (H, W) uint8, train ids; 255 where no class applies.
        teacher_logits: (C, ceil(H / stride), ceil(W / stride)) float16; see
            `trainables.data.logit_map` for where its cells lie.
    """

    image: Tensor
    target: Tensor
    teacher_logits: Tensor


class SegmentationDataset(Dataset[Sample], ABC):
    """Images with one class per pixel.

    Every data set maps its own "void" labels to 255, so that losses and metrics need one
    convention.

    Attributes:
        name: Key in ``DATASETS``.
        classes: Class names; position = label in the target.
        split: Part of the data set, such as "train" or "val".
        ignore_index: Label of pixels that count neither in a loss nor in a metric: 255.
    """

    name: ClassVar[str]
    ignore_index: ClassVar[int] = IGNORE_INDEX
    classes: tuple[str, ...]
    split: str

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignored label not counted."""
        return len(self.classes)

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; the same one at every call.

        Raises:
            DataError: The files of this sample cannot be used.
        """

    @abstractmethod
    def sample_name(self, index: int) -> str:
        """Name of sample ``index``, unique within the split."""

    @abstractmethod
    def sample_size(self, index: int) -> tuple[int, int]:
        """Height and width of sample ``index`` in pixels, without decoding it where possible."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what determines the content: name, split, options, file names and file sizes."""

    def check(self) -> None:
        """Read every sample once.

        Raises:
            DataError: Names every file that cannot be used (the first ten of them).
        """
        visit_all(self, lambda index: self[index])


def visit_all(
    dataset: SegmentationDataset, visit: Callable[[int], object], num_threads: int | None = None
) -> None:
    """Call ``visit(index)`` for every sample from a few threads and report all bad files at once.

    Args:
        dataset: Data set whose indices are visited.
        visit: Called once per index, from several threads.
        num_threads: Threads; image decoding releases the interpreter lock. Default: one per core,
            at most 8.

    Raises:
        DataError: At least one call raised it; joins up to ten of their messages.
    """

    def attempt(index: int) -> str | None:
        note_progress(f"sample {index + 1} of {len(dataset)} of {dataset.name} ({dataset.split})")
        try:
            visit(index)
        except DataError as error:
            return str(error)
        return None

    if num_threads is None:
        num_threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        problems = [text for text in pool.map(attempt, range(len(dataset))) if text is not None]
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(problems[0])
    listed = "\n".join(f"  - {text}" for text in problems[:MAX_REPORTED_PROBLEMS])
    more = len(problems) - MAX_REPORTED_PROBLEMS
    rest = f"\n  and {more} more" if more > 0 else ""
    raise DataError(
        f"{len(problems)} of {len(dataset)} samples of {dataset.name!r} ({dataset.split}) "
        f"cannot be used:\n{listed}{rest}"
    )


def hash_content(content: Mapping[str, object]) -> str:
    """Stable hexadecimal hash of JSON-able content, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_positive_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as a (height, width) tuple of positive integers.

    Raises:
        ValueError: Not two positive integers.
    """
    values = tuple(size)
    if len(values) != 2 or any(int(value) != value or value < 1 for value in values):
        raise ValueError(f"{name} must be (height, width), two positive integers; got {size!r}")
    return int(values[0]), int(values[1])
