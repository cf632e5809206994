"""What every segmentation data set of segfront offers, and the error that names a bad file."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
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
    """The bytes of a file are there, but they are no whole image: truncated, or something else."""


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
        has_one_class: True if one class was stated, which is told from a background.
    """

    name: ClassVar[str]
    ignore_index: ClassVar[int] = IGNORE_INDEX
    classes: tuple[str, ...]
    split: str
    has_one_class: bool = False

    @classmethod
    def has_split(cls, root: str | Path | None, split: str, **options: Any) -> bool:
        """True if ``split`` can be opened, as far as folders and lists say.

        Args:
            root: Folder of the data.
            split: Such as "test".
            **options: As for opening it.
        """
        del root, options
        return split in ("train", "val")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Plain sentences on what is doubtful about the split, as far as it is known."""
        return ()

    @property
    def colours(self) -> tuple[Colour, ...]:
        """RGB of every class for pictures: the declared colours, or else a palette of ours."""
        return default_palette(self.num_classes)

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
    def common_size(self) -> tuple[int, int]:
        """Height and width of most samples, the first of equals: where networks are measured.

        Raises:
            DataError: No sample can be read.
        """
        sizes: Counter[tuple[int, int]] = Counter()
        problem: UnreadableFileError | None = None
        for index in range(len(self)):
            try:
                sizes[self.sample_size(index)] += 1
            except UnreadableFileError as error:  # left out, or refused, where the samples are read
                problem = error
        if not sizes:
            raise problem or DataError(f"data set {self.name!r} ({self.split}) has no samples")
        return sizes.most_common(1)[0][0]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what determines the samples: the bytes of the files, and how they are read."""

    @property
    def state(self) -> Hashable:
        """Equal for two data sets opened one after the other if no sample changed in between.

        Cheaper than the fingerprint where that reads files.
        """
        return self.fingerprint

    def is_unchanged(self) -> bool:
        """True if opening the data set anew would surely give the same; cheaper than doing so."""
        return True

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
    """What all texts end with, from a semicolon on: what to do, which need not be said twice."""
    parts = texts[0].split("; ")
    ends = ("; " + "; ".join(parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if all(text.endswith(end) for text in texts)), "")


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
