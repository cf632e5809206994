"""Caches the teacher's logits of all training images once per node."""

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
    """The source of the teacher's logits in the training of a student.

    Attributes:
        source: cached: run the teacher once per un-augmented image, and apply crops and flips to
            the cached logits. live: run the teacher at every step on the augmented images, which
            costs a forward pass each time.
        stride: Distance of cached logits in pixels, at least 1. Disk space and reading time fall
            with its square. Not used by a live teacher.
        top_k: Store the top_k logits per cell and the total mass of the rest, which is divided
            evenly among the other classes. Disk space falls by C / (2 top_k + 1). None: store all
            logits. Not used by a live teacher.
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
        """Return the values that the result of a training depends on."""
        return {"source": self.source} | (self.coarseness() if self.cached else {})

    def coarseness(self) -> dict[str, int]:
        """Return the resolution of the stored logits; top_k only if it is set."""
        return {"stride": self.stride} | ({} if self.top_k is None else {"top_k": self.top_k})

    def check_classes(self, num_classes: int) -> None:
        """Check that top_k saves space.

        Raises:
            ValueError: top_k is too large for the number of classes.
        """
        if self.cached:
            check_top_k(self.top_k, num_classes)

    @property
    def cached(self) -> bool:
        """Whether logits come from the cache."""
        return self.source == "cached"


class CachedTeacher(NamedTuple):
    """The cached logits of a teacher.

    Attributes:
        logits: Logits of every training image.
        seconds: Working time of this call; 0 if the logits existed already.
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
    """Run the teacher once over all un-augmented images, or open the cache of this node.

    The first process computes the logits, and the others wait for it.

    Args:
        checkpoint: Checkpoint of the teacher, in the folder of its artefact. Both artefact and
            weights are part of the cache's key.
        dataset: Training images.
        context: Device, cache folder, lock.
        config: Settings of a cached source.
        precision: Precision of the forward pass, as in training.

    Raises:
        DataError: A logit is not finite.
        OSError: The disk does not have enough space.
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
    """Computes a teacher's logits of an image; the network is loaded at the first call."""

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
        """Return an image's logits, (C, ceil(H / stride), ceil(W / stride)) float32 on the CPU."""
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
