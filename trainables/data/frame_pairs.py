"""Neighbouring frames of a drive: found by the names of the images, and streamed as pairs."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import defaultdict
from functools import cached_property

from trainables.data.dataset import SegmentationDataset
from trainables.data.stream import TrainingStream

_FRAME = re.compile(r"(?P<drive>.*?)(?P<number>\d+)\D*")
# Their names are numbered too, but no image has a neighbour.
STILLS = {"synthetic"}
# A gap this many times the usual one means that frames between are missing.
LARGEST_GAP = 1.5


def find_frame_pairs(dataset: SegmentationDataset) -> list[tuple[int, int]]:
    """Look for images that follow each other in a drive.

    The last number in an image's name is the frame, what stands before it the drive, as in CamVid's
    `0016E5_07959`. Two frames follow each other if none lies between them and they are no more than
    1.5 times as far apart as is usual in their drive.

    Args:
        dataset: Any data set; its sample names are read, no image.

    Returns:
        Pairs of indices (frame, next frame), in the order of drives and frames.
    """
    if getattr(dataset, "source_name", dataset.name) in STILLS:
        return []
    drives: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index in range(len(dataset)):
        match = _FRAME.fullmatch(dataset.sample_name(index))
        if match is not None:
            drives[match["drive"]].append((int(match["number"]), index))
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


class FramePairStream(TrainingStream):
    """A training stream whose positions 2k and 2k + 1 are neighbouring frames.

    Both frames of a pair go through the same scale, crop, flip and colours, so that what stands
    still stays in its place. A batch of even size holds whole pairs. An epoch shows every pair
    once; everything else is as in `TrainingStream`.

    Raises:
        ValueError: The data set has no neighbouring frames.
    """

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of the frames of each pair."""
        found = find_frame_pairs(self.dataset)
        if not found:
            raise ValueError(
                f"data set {self.dataset.name!r} ({self.dataset.split}) has no neighbouring "
                "frames; images of a drive are named DRIVE_NUMBER, such as 0016E5_07959"
            )
        return found

    def index_of(self, position: int) -> int:
        """Index in the data set of the frame at a position.

        Raises:
            IndexError: A negative position.
        """
        pair, frame = divmod(position, 2)
        return self.pairs[self.draw(pair, len(self.pairs))][frame]

    def seed_of(self, position: int) -> int:
        """Both frames of a pair are varied alike."""
        return super().seed_of(position // 2)
