"""Drives through the built-in streets: consecutive frames whose motion is known exactly."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.data.dataset import Sample
from trainables.data.driven_canvas import DrivenCanvas
from trainables.data.scene import Dice
from trainables.data.scene_light import light_scene
from trainables.data.scene_street import GUESTS, paint_street
from trainables.data.synthetic import NUM_SAMPLES, Synthetic

FRAMES_PER_DRIVE = 4
STEP_M = 0.5
SENSOR_NOISE = 3.0


class _Frame(NamedTuple):
    sample: Sample
    canvas: DrivenCanvas


class SyntheticDrives(Synthetic):
    """The streets of `Synthetic`, each seen four times from a camera that moves ahead 0.5 m.

    Everything in the scene stands still. Light and shadow are the same for all frames of a street;
    each frame has its own sensor noise. The scenes are the split's first `num_samples / 4` streets.

    Args:
        root: Ignored; there are no files.
        split: "train", "val" or "test"; their streets differ.
        size: (height, width) in pixels, at least 32 each.
        num_samples: Number of frames; default 160 for "train" and 40 for the others.
        seed: Seed, an integer of at least 0.

    Raises:
        ValueError: As for `Synthetic`.
    """

    name: ClassVar[str] = "synthetic_drives"

    def __getitem__(self, index: int) -> Sample:
        """Draw frame ``index``; see the base class."""
        return self._draw(index).sample

    def sample_name(self, index: int) -> str:
        """Return split, drive and number of the frame."""
        drive, frame = divmod(range(self.num_samples)[index], FRAMES_PER_DRIVE)
        return f"{self.split}-{drive:05d}_{frame:02d}"

    def motion(self, index: int) -> Tensor:
        """Return the motion of each pixel of a frame to the next frame of its drive.

        Args:
            index: Index of the first of the two frames.

        Returns:
            (2, H, W) float32: motion to the right and down in pixels; NaN where the point of a
            pixel is hidden or outside in the next frame, or is void.

        Raises:
            ValueError: The drive has no further frame.
        """
        if index % FRAMES_PER_DRIVE == FRAMES_PER_DRIVE - 1 or index + 1 >= self.num_samples:
            raise ValueError(f"{self.sample_name(index)} is the last frame of its drive")
        here, there = self._draw(index), self._draw(index + 1)
        return torch.from_numpy(here.canvas.find_motion(there.canvas, STEP_M))

    def _draw(self, index: int) -> _Frame:
        drive, frame = divmod(range(self.num_samples)[index], FRAMES_PER_DRIVE)
        place = [self.seed, list(NUM_SAMPLES).index(self.split), drive]
        # All frames of a drive use the same draws, which do not depend on the camera's position.
        generator = np.random.default_rng(place)
        height, width = self.size
        canvas = paint_street(
            Dice(generator),
            2 * height,
            2 * width,
            GUESTS[drive % len(GUESTS)],
            make_canvas=partial(DrivenCanvas, ahead_m=frame * STEP_M),
        )
        assert isinstance(canvas, DrivenCanvas)  # noqa: S101 - made just now
        image, target = light_scene(canvas.picture, generator)
        noise = np.random.default_rng([*place, frame]).normal(0, SENSOR_NOISE, image.shape)
        noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
        return _Frame(Sample(torch.from_numpy(noisy), torch.from_numpy(target)), canvas)
