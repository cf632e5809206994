"""The base class of data sets, and the errors for unusable files."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from trainables.data.palette import Colour, default_palette
from trainables.process.watchdog import note_progress

IGNORE_INDEX = 255
MAX_REPORTED_PROBLEMS = 10


class DataError(ValueError):
    """A data set cannot be used; the message names the file, the value and what is allowed."""


class UnreadableFileError(DataError):
    """A file can be read but is not a complete image: it is truncated, or something else."""


class Sample(NamedTuple):
    """One image with its labels.

    Attributes:
        image: Image, (3, H, W) uint8, RGB.
        target: Train id of each pixel, (H, W) uint8; 255 where no class applies.
    """

    image: Tensor
    target: Tensor


class TaughtSample(NamedTuple):
    """One training image with its labels, and the teacher's logits and maps.

    Attributes:
        image: Image, (3, H, W) uint8, RGB.
        target: Train id of each pixel, (H, W) uint8; 255 where no class applies.
        teacher_logits: Logits, (C, ceil(H / stride), ceil(W / stride)) float16; see
            `trainables.data.logit_map` for the positions of its cells.
        teacher_maps: Maps of the teacher's layers likewise, by `Layer.key`.
    """

    image: Tensor
    target: Tensor
    teacher_logits: Tensor
    teacher_maps: dict[str, Tensor]


class SegmentationDataset(Dataset[Sample], ABC):
    """Images with one class per pixel.

    Every data set maps its own "void" labels to 255, so that losses and metrics need one
    convention.

    Attributes:
        name: Key in ``DATASETS``.
        classes: Class names, in the order of their labels in the target.
        split: Part of the data set, such as "train" or "val".
        ignore_index: Label of pixels that count neither in a loss nor in a metric, 255.
        has_one_class: True if the user named one class, which is distinguished from a background.
    """

    name: ClassVar[str]
    ignore_index: ClassVar[int] = IGNORE_INDEX
    classes: tuple[str, ...]
    split: str
    has_one_class: bool = False

    @classmethod
    def has_split(cls, root: str | Path | None, split: str, **options: Any) -> bool:
        """Return whether the split exists, judged by its folders and lists.

        Args:
            root: Folder of the data.
            split: Name of the split, such as "test".
            **options: Options as for opening it.
        """
        del root, options
        return split in ("train", "val")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Known warnings about the split, one sentence each."""
        return ()

    @property
    def colours(self) -> tuple[Colour, ...]:
        """RGB of every class for pictures: the declared colours, or else a default palette."""
        return default_palette(self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignored label not counted."""
        return len(self.classes)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``, the same at every call.

        Raises:
            DataError: The files of this sample cannot be used.
        """

    @abstractmethod
    def sample_name(self, index: int) -> str:
        """Return the name of sample ``index``, unique within the split."""

    @abstractmethod
    def sample_size(self, index: int) -> tuple[int, int]:
        """Return height and width of sample ``index`` in pixels, without decoding if possible."""

    @property
    def common_size(self) -> tuple[int, int]:
        """Most frequent height and width, at which networks are measured; of several, the first.

        Raises:
            DataError: No sample can be read.
        """
        sizes: Counter[tuple[int, int]] = Counter()
        problem: UnreadableFileError | None = None
        for index in range(len(self)):
            try:
                sizes[self.sample_size(index)] += 1
            except UnreadableFileError as error:  # handled when the samples are read
                problem = error
        if not sizes:
            raise problem or DataError(f"data set {self.name!r} ({self.split}) has no samples")
        return sizes.most_common(1)[0][0]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that determines the samples: the files' bytes and how they are read."""

    def is_unchanged(self) -> bool:
        """Return whether opening the data set again would certainly give the same samples."""
        return True

    def check(self) -> None:
        """Read every sample once.

        Raises:
            DataError: Files cannot be used; the message names the first ten.
        """
        visit_all(self, lambda index: self[index])


def visit_all(
    dataset: SegmentationDataset, visit: Callable[[int], object], num_threads: int | None = None
) -> None:
    """Call ``visit(index)`` for every sample from a few threads and report all bad files at once.

    Args:
        dataset: Data set whose indices are visited.
        visit: Function that is called once per index, from several threads.
        num_threads: Number of threads; image decoding releases the interpreter lock. Default: one
            per core, at most 8.

    Raises:
        DataError: At least one call raised it; the message joins up to ten of theirs.
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
    remedy = _shared_end(problems)
    shortened = [text.removesuffix(remedy) for text in problems[:MAX_REPORTED_PROBLEMS]]
    listed = "\n".join(f"  - {text}" for text in shortened)
    more = len(problems) - MAX_REPORTED_PROBLEMS
    rest = f"\n  and {more} more" if more > 0 else ""
    raise DataError(
        f"{len(problems)} of {len(dataset)} samples of {dataset.name!r} ({dataset.split}) "
        f"cannot be used:\n{listed}{rest}{remedy.replace('; ', chr(10) + '  ', 1)}"
    )


def _shared_end(texts: Sequence[str]) -> str:
    """Return the common end of all texts, from a semicolon on: the remedy, which is said once."""
    parts = texts[0].split("; ")
    ends = ("; " + "; ".join(parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if all(text.endswith(end) for text in texts)), "")


def hash_content(content: Mapping[str, object]) -> str:
    """Return a stable hexadecimal hash of JSON-serialisable content, whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_positive_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as a (height, width) tuple of positive integers.

    Raises:
        ValueError: The size is not two positive integers.
    """
    values = tuple(size)
    if len(values) != 2 or any(int(value) != value or value < 1 for value in values):
        raise ValueError(f"{name} must be (height, width), two positive integers; got {size!r}")
    return int(values[0]), int(values[1])
