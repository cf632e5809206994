"""Procedural street scenes with the 19 Cityscapes classes: a data set that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from trainables.data.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_COLOURS
from trainables.data.dataset import (
    Sample,
    SegmentationDataset,
    check_positive_size,
    hash_content,
)
from trainables.data.palette import Colour
from trainables.data.scene import Dice
from trainables.data.scene_light import light_scene
from trainables.data.scene_street import GUESTS, paint_street

NUM_SAMPLES = {"train": 160, "val": 40, "test": 40}
GENERATOR_VERSION = 1
SMALLEST = 32


class Synthetic(SegmentationDataset):
    """Streets drawn in perspective, with texture, occlusion, shadows, light and sensor noise.

    Classes share their colours (one palette for all vehicles, one for buildings, walls and paving,
    one for all greenery), so that shape, texture and place must be learned. A scene depends only on
    (seed, split, index) and is the same on every machine.

    Args:
        root: Ignored; there are no files.
        split: "train", "val" or "test"; their scenes differ.
        size: (height, width) in pixels, at least 32 each.
        num_samples: Number of scenes; default 160 for "train" and 40 for the others.
        seed: Seed, an integer of at least 0.

    Raises:
        ValueError: The split is unknown, or a size, number or seed is outside its range.
    """

    name: ClassVar[str] = "synthetic"
    classes = CITYSCAPES_CLASSES

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        size: tuple[int, int] = (128, 256),
        num_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in NUM_SAMPLES:
            raise ValueError(
                f"split of synthetic must be one of {', '.join(NUM_SAMPLES)}; got {split!r}"
            )
        self.split = split
        self.size = check_positive_size("size", size)
        self.num_samples = NUM_SAMPLES[split] if num_samples is None else num_samples
        self.seed = seed
        if min(self.size) < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST} x {SMALLEST}; got {size!r}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be 1 or more; got {num_samples}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more; got {seed}")

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        """Draw scene ``index``; see the base class."""
        index = range(self.num_samples)[index]
        generator = np.random.default_rng([self.seed, list(NUM_SAMPLES).index(self.split), index])
        height, width = self.size
        canvas = paint_street(Dice(generator), 2 * height, 2 * width, GUESTS[index % len(GUESTS)])
        image, target = light_scene(canvas.picture, generator)
        return Sample(torch.from_numpy(image), torch.from_numpy(target))

    def sample_name(self, index: int) -> str:
        """Return split and number of the scene."""
        return f"{self.split}_{range(self.num_samples)[index]:05d}"

    def sample_size(self, index: int) -> tuple[int, int]:
        """Return height and width, which are the same for every scene."""
        return self.size

    @classmethod
    def has_split(cls, root: str | Path | None, split: str, **options: object) -> bool:
        """See the base class."""
        return split in NUM_SAMPLES

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of Cityscapes, whose classes are used."""
        return CITYSCAPES_COLOURS

    @property
    def fingerprint(self) -> str:
        """Hash of split, size, number, seed and the version of the generator."""
        return hash_content(
            {
                "name": self.name,
                "version": GENERATOR_VERSION,
                "split": self.split,
                "size": self.size,
                "num_samples": self.num_samples,
                "seed": self.seed,
            }
        )
