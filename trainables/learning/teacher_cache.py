"""Caches the teacher's logits, and maps of its layers, of all training images once per node."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
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
from trainables.data.logit_map import num_cells, shrink
from trainables.data.top_logits import check_top_k
from trainables.learning.training import Precision, autocast, place
from trainables.process.watchdog import note_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherLogitsConfig:
    """The source of the teacher's logits and maps in the training of a student.

    Attributes:
        source: cached: run the teacher once per un-augmented image, and apply crops and flips to
            the cached logits. live: run the teacher at every step on the augmented images, which
            costs a forward pass each time.
        stride: Distance of cached logits in pixels, at least 1. Disk space and reading time fall
            with its square. Not used by a live teacher.
        top_k: Store the top_k logits per cell and the total mass of the rest, which is divided
            evenly among the other classes. Disk space falls by C / (2 top_k + 1). None: store all
            logits. Not used by a live teacher.
        maps: Source of the maps inside the teacher, for distillers that read them. live: run the
            teacher at every step, for the logits too, whatever `source` is. cached: cache the maps
            like the logits, but at the layer's own stride. A layer takes 2 bytes x channels x cells
            per image; the log states the size before the cache is made.
    """

    source: Literal["cached", "live"] = "cached"
    stride: int = 4
    top_k: int | None = None
    maps: Literal["cached", "live"] = "live"

    def __post_init__(self) -> None:
        if self.source not in ("cached", "live"):
            raise ValueError(f"source must be cached or live, got {self.source!r}")
        if self.maps not in ("cached", "live"):
            raise ValueError(f"maps must be cached or live, got {self.maps!r}")
        if self.maps == "cached" and self.source == "live":
            raise ValueError(
                "maps 'cached' needs source 'cached', got source 'live': set source to cached, or "
                "maps to live"
            )
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    def content(self) -> dict[str, Any]:
        """Return the values that the result of a training depends on."""
        maps = {"maps": self.maps} if self.maps == "cached" else {}
        return {"source": self.source} | (self.coarseness() if self.cached else {}) | maps

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


class InnerMap(NamedTuple):
    """A map inside a teacher.

    Attributes:
        channels: Channels of the map.
        stride: Pixels of the image per cell of the map.
        read: Function that runs the teacher on images (1, 3, H, W) and returns the map, (1,
            channels, h, w), without cells beyond the images.
    """

    channels: int
    stride: int
    read: Callable[[nn.Module, Tensor], Tensor]


class CachedTeacher(NamedTuple):
    """The cached logits and maps of a teacher.

    Attributes:
        logits: Logits of every training image.
        maps: Maps of its layers likewise, by name.
        seconds: Working time of this call; 0 if everything existed already.
    """

    logits: TeacherLogits
    maps: Mapping[str, TeacherLogits]
    seconds: float


def cache_teacher(
    checkpoint: Path,
    dataset: SegmentationDataset,
    context: StageContext,
    config: TeacherLogitsConfig,
    *,
    precision: Precision,
    maps: Mapping[str, InnerMap] = MappingProxyType({}),
) -> CachedTeacher:
    """Run the teacher once over all un-augmented images, or open the cache of this node.

    The first process computes the logits, and the others wait for it. The maps of each layer have a
    folder of their own, so that distillers which read the same layer share it.

    Args:
        checkpoint: Checkpoint of the teacher, in the folder of its artefact. Both artefact and
            weights are part of the cache's key.
        dataset: Training images.
        context: Device, cache folder, lock.
        config: Settings of a cached source.
        precision: Precision of the forward pass, as in training.
        maps: Maps of its layers that are cached too, by name.

    Raises:
        DataError: A logit or a map is not finite.
        OSError: The disk does not have enough space.
        ValueError: top_k is too large for the classes.
    """
    config.check_classes(dataset.num_classes)
    content = {
        "teacher": checkpoint.parent.name,
        "weights": checksum(checkpoint),
        "dataset": dataset.fingerprint,
        "precision": precision,
    }
    teacher = _Teacher(checkpoint, dataset, context, precision)

    def cache(compute: Callable[[int], Tensor], **own: Any) -> TeacherLogits:
        return cache_logits(dataset, context.cache_dir, {**content, **own}, compute)

    logits = cache(
        lambda index: teacher.compute_logits(index, config.stride), **config.coarseness()
    )
    inner = {
        name: cache(
            functools.partial(teacher.compute_map, map_),
            layer=name,
            channels=map_.channels,
            stride=map_.stride,
            padding="cut",
        )
        for name, map_ in maps.items()
    }
    return CachedTeacher(logits, inner, teacher.seconds)


class _Teacher:
    """Computes a teacher's logits and maps of an image; the network is loaded at the first call."""

    def __init__(
        self,
        checkpoint: Path,
        dataset: SegmentationDataset,
        context: StageContext,
        precision: Precision,
    ) -> None:
        self.checkpoint = checkpoint
        self.dataset = dataset
        self.context = context
        self.precision = precision
        self.device = torch.device(context.device)
        self.seconds = 0.0
        self._model: nn.Module | None = None

    def compute_logits(self, index: int, stride: int) -> Tensor:
        """Return an image's logits, (C, ceil(H / stride), ceil(W / stride)) float32 on the CPU."""
        return self._run(index, lambda model, images: shrink(model(images), stride))

    def compute_map(self, inner: InnerMap, index: int) -> Tensor:
        """Return a map of an image likewise, at its own stride."""

        def read(model: nn.Module, images: Tensor) -> Tensor:
            size = [num_cells(side, inner.stride) for side in images.shape[-2:]]
            values = inner.read(model, images).float()
            return F.interpolate(values, size=size, mode="bilinear", align_corners=False)

        return self._run(index, read)

    @torch.inference_mode()
    def _run(self, index: int, read: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        started = time.monotonic()
        note_progress(f"image {index + 1} of {len(self.dataset)} of the teacher's cache")
        if self._model is None:
            self._model = place(load_checkpoint(self.checkpoint), self.device).eval()
        images = self.dataset[index].image.unsqueeze(0)
        with self.context.device_lock.shared(), self.context.threads():
            with autocast(self.precision, self.device):
                pixels = images.to(self.device)
                values = read(self._model, normalize(pixels, normalization_of(self._model)))
            coarse = values[0].cpu()
        self.seconds += time.monotonic() - started
        return coarse
