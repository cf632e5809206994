"""Consecutive frames of a drive, found by the names of the images and streamed as pairs."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import defaultdict
from functools import cached_property

from trainables.data.dataset import SegmentationDataset
from trainables.data.stream import TrainingStream

_FRAME = re.compile(r"(?P<drive>.*?)(?P<number>\d+)\D*")
# Data sets with numbered names whose images are not consecutive frames.
STILLS = {"synthetic"}
# A gap above this multiple of the usual gap means that frames are missing.
LARGEST_GAP = 1.5
# A split whose frames are this many times as far apart as in its drives is warned of.
LARGEST_RATIO = 2


def find_frame_pairs(dataset: SegmentationDataset) -> list[tuple[int, int]]:
    """Find images that follow each other in a drive.

    The last number in an image's name is the frame, and the text before it is the drive, as in
    CamVid's `0016E5_07959`. Two frames are consecutive if no frame is between them and their gap is
    at most 1.5 times the median gap of the drive.

    Args:
        dataset: Any data set; only its sample names are read.

    Returns:
        Pairs of indices (frame, next frame), in the order of drives and frames.
    """
    if getattr(dataset, "source_name", dataset.name) in STILLS:
        return []
    drives = _find_drives(dataset)
    pairs: list[tuple[int, int]] = []
    for drive in sorted(drives):
        frames = sorted(drives[drive])
        steps = list(itertools.pairwise(frames))
        if not steps:
            continue
        usual = statistics.median(after - before for (before, _), (after, _) in steps)
        pairs += [
            (first, second)
            for (before, first), (after, second) in steps
            if 0 < after - before <= LARGEST_GAP * usual
        ]
    return pairs


def warn_of_gaps(dataset: SegmentationDataset, other: SegmentationDataset) -> list[str]:
    """Return a warning if the frames between those of a split are usually in another split.

    Args:
        dataset: Split whose consecutive frames are compared.
        other: Another split, which may hold frames of the same drives.
    """
    others = _find_numbers(other)
    ratios = [
        _usual_gap(numbers) / _usual_gap(numbers | others.get(drive, set()))
        for drive, numbers in _find_numbers(dataset).items()
        if len(numbers) > 1
    ]
    if not ratios or statistics.median(ratios) <= LARGEST_RATIO:
        return []
    return [
        f"frames of {dataset.split!r} are {statistics.median(ratios):.3g} times as far apart as "
        "their drives are recorded, because the frames between them are in another split: the "
        "consistency is that of distant frames; put whole drives into each split"
    ]


def _find_drives(dataset: SegmentationDataset) -> dict[str, list[tuple[int, int]]]:
    """Return the number and the index of each frame, by drive."""
    drives: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index in range(len(dataset)):
        match = _FRAME.fullmatch(dataset.sample_name(index))
        if match is not None:
            drives[match["drive"]].append((int(match["number"]), index))
    return drives


def _find_numbers(dataset: SegmentationDataset) -> dict[str, set[int]]:
    """Return the numbers of the frames, by drive."""
    drives = _find_drives(dataset)
    return {drive: {number for number, _ in frames} for drive, frames in drives.items()}


def _usual_gap(numbers: set[int]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(sorted(numbers)))


class FramePairStream(TrainingStream):
    """A training stream whose positions 2k and 2k + 1 are consecutive frames.

    Both frames of a pair get the same scale, crop, flip and colours, so that static objects stay in
    place. A batch of even size contains whole pairs. An epoch shows every pair once; everything
    else is as in `TrainingStream`.

    Raises:
        ValueError: The data set has no consecutive frames.
    """

    num_together = 2

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of the frames of each pair."""
        found = find_frame_pairs(self.dataset)
        if not found:
            raise ValueError(
                f"data set {self.dataset.name!r} ({self.dataset.split}) has no consecutive "
                "frames; images of a drive must be named DRIVE_NUMBER, such as 0016E5_07959"
            )
        return found

    def index_of(self, position: int) -> int:
        """Return the index in the data set of the frame at a position.

        Raises:
            IndexError: The position is negative.
        """
        pair, frame = divmod(position, 2)
        return self.pairs[self.draw(pair, len(self.pairs))][frame]

    def seed_of(self, position: int) -> int:
        """Return the augmentation seed, which is the same for both frames of a pair."""
        return super().seed_of(position // 2)
