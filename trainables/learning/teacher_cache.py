"""The teacher's logits of all training images, computed once per node instead of at every step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.checkpoint import load_checkpoint
from trainables.artifacts.checksum import checksum
from trainables.context import StageContext
from trainables.data import (
    SegmentationDataset,
    TeacherLogits,
    cache_logits,
    normalization_of,
    normalize,
)
from trainables.data.logit_map import shrink
from trainables.data.top_logits import check_top_k
from trainables.learning.training import Precision, autocast, place
from trainables.process.watchdog import note_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherLogitsConfig:
    """Where a student in training has the teacher's logits from.

    Attributes:
        source: cached: computed once for every image as it is and varied as the image is; live: the
            teacher runs at every step on the varied image, which costs its forward pass each time.
        stride: Pixels from one cached logit to the next, at least 1; disk and reading time fall
            with its square. Unused by a live teacher.
        top_k: Keep so many of the largest logits of a place and spread what the other classes weigh
            together evenly among them; disk falls by C / (2 top_k + 1). None: keep all. Unused by
            a live teacher.
    """

    source: Literal["cached", "live"] = "cached"
    stride: int = 4
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.source not in ("cached", "live"):
            raise ValueError(f"source must be cached or live, got {self.source!r}")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    def content(self) -> dict[str, Any]:
        """What a training's result depends on."""
        return {"source": self.source} | (self.coarseness() if self.cached else {})

    def coarseness(self) -> dict[str, int]:
        """How much of what the teacher said is kept; top_k only where it leaves something out."""
        return {"stride": self.stride} | ({} if self.top_k is None else {"top_k": self.top_k})

    def check_classes(self, num_classes: int) -> None:
        """Refuse to keep more than there is to leave out.

        Raises:
            ValueError: top_k is too large for so many classes.
        """
        if self.cached:
            check_top_k(self.top_k, num_classes)

    @property
    def cached(self) -> bool:
        """Whether logits come from the cache."""
        return self.source == "cached"


class CachedTeacher(NamedTuple):
    """What stands for a teacher in training.

    Attributes:
        logits: Of every training image.
        seconds: Work done for them by this call; 0 where they were found.
    """

    logits: TeacherLogits
    seconds: float


def cache_teacher(
    checkpoint: Path,
    dataset: SegmentationDataset,
    context: StageContext,
    config: TeacherLogitsConfig,
    *,
    precision: Precision,
) -> CachedTeacher:
    """Run the teacher once over all images as they are, or find that this was done on this node.

    The first process that comes works, the others wait for it.

    Args:
        checkpoint: Of the teacher, in the folder of its artefact; artefact and weights are both
            part of the cache's key.
        dataset: Training images.
        context: Device, cache folder, lock.
        config: Of a cached source.
        precision: Of the forward pass, as in training.

    Raises:
        DataError: A logit is no finite number.
        OSError: The disk has not the room.
        ValueError: top_k is too large for the classes.
    """
    config.check_classes(dataset.num_classes)
    content = {
        "teacher": checkpoint.parent.name,
        "weights": checksum(checkpoint),
        "dataset": dataset.fingerprint,
        **config.coarseness(),
        "precision": precision,
    }
    teacher = _Teacher(checkpoint, dataset, context, config.stride, precision)
    logits = cache_logits(dataset, context.cache_dir, content, teacher)
    return CachedTeacher(logits, teacher.seconds)


class _Teacher:
    """Says what the network makes of an image; loaded when it is asked first."""

    def __init__(
        self,
        checkpoint: Path,
        dataset: SegmentationDataset,
        context: StageContext,
        stride: int,
        precision: Precision,
    ) -> None:
        self.checkpoint = checkpoint
        self.dataset = dataset
        self.context = context
        self.stride = stride
        self.precision = precision
        self.device = torch.device(context.device)
        self.seconds = 0.0
        self._model: nn.Module | None = None

    @torch.inference_mode()
    def __call__(self, index: int) -> Tensor:
        """Logits of image `index`, (C, ceil(H / stride), ceil(W / stride)) float32 on the CPU."""
        started = time.monotonic()
        note_progress(f"image {index + 1} of {len(self.dataset)} of the teacher's logits")
        if self._model is None:
            self._model = place(load_checkpoint(self.checkpoint), self.device).eval()
        images = self.dataset[index].image.unsqueeze(0)
        with self.context.device_lock.shared(), self.context.threads():
            with autocast(self.precision, self.device):
                pixels = images.to(self.device)
                logits: Tensor = self._model(normalize(pixels, normalization_of(self._model)))
            coarse = shrink(logits, self.stride)[0].cpu()
        self.seconds += time.monotonic() - started
        return coarse
