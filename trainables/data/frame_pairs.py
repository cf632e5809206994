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
