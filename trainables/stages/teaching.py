"""A teacher's part in a training: its logits, its maps, and the loss that compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.checkpoint import load_checkpoint
from trainables.context import StageContext
from trainables.data import normalization_of, normalize
from trainables.data.logit_map import enlarge
from trainables.distillers import DISTILLERS, FeatureTaps, Lesson, TeachingLoss, build_loss
from trainables.distillers.layers import Layer
from trainables.distillers.maps import cut_padding
from trainables.learning.teacher_cache import (
    CachedTeacher,
    InnerMap,
    TeacherLogitsConfig,
    cache_teacher,
)
from trainables.learning.training import Batch, LossFunction, place
from trainables.stages.learning import Learning

# (student logits, batch) -> teacher logits of the same shape
TeacherFunction = Callable[[Tensor, Batch], Tensor]


class Lessons(NamedTuple):
    """What a training with a teacher needs, besides data and schedule.

    Attributes:
        compute_loss: Loss of the training, on labels and teacher.
        beside: Module that is trained together with the student, such as projections.
        cached: The teacher's cached logits and maps, which belong into the batches; None: no cache
            is used.
        has_pairs: Whether images must come as pairs of consecutive frames.
    """

    compute_loss: LossFunction
    beside: TeachingLoss
    cached: CachedTeacher | None
    has_pairs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """Distillation of a teacher into a student.

    Attributes:
        methods: Settings of each distiller, by its name in `DISTILLERS`.
        teacher: The teacher: a checkpoint, or a network in eval mode on the device of the training;
            None if no distiller needs one.
        logits: Source of the teacher's logits and maps. The teacher runs at every step regardless
            of it if it is given as a network, or if a distiller reads maps that are not cached.
    """

    methods: Mapping[str, Any]
    teacher: Path | nn.Module | None
    logits: TeacherLogitsConfig

    @contextmanager
    def begin(
        self, student: nn.Module, learning: Learning, context: StageContext
    ) -> Iterator[Lessons]:
        """Open the teacher, or its cache, and read maps of the networks until the block ends.

        Args:
            student: Network that is trained within the block.
            learning: Data, schedule and seed of that training.
            context: Machine and folders.
        """
        network = self._load_teacher(context)
        torch.manual_seed(learning.seed)  # initial weights of projections
        loss = build_loss(
            self.methods,
            student=student,
            teacher=network,
            image_size=learning.data.augmentation.crop_size,
        )
        class_weights = learning.class_weights(context)
        cached = None
        if self._is_cached:
            network = None  # its memory is free for the training
            cached = self.fill_cache(learning, context, loss.teacher_layers)
        with (
            FeatureTaps(student, loss.student_layers) as own,
            FeatureTaps(network, loss.teacher_layers if network is not None else ()) as other,
        ):

            def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
                if network is not None:
                    taught, maps = ask_live(network)(logits, batch), other.take()
                elif cached is not None:
                    taught, maps = read_cached_logits(logits, batch), dict(batch.teacher_maps)
                else:
                    taught, maps = logits.detach(), {}
                return loss.compute_total(
                    Lesson(logits, taught, batch.target, class_weights, own.take(), maps)
                )

            has_pairs = any(DISTILLERS[name].needs_pairs for name in self.methods)
            yield Lessons(compute_loss, loss, cached, has_pairs)

    @property
    def reads_maps(self) -> bool:
        """Whether a distiller compares maps of the networks' layers."""
        return any(DISTILLERS[name].needs_features for name in self.methods)

    @property
    def _is_cached(self) -> bool:
        source = self.logits.maps if self.reads_maps else self.logits.source
        return isinstance(self.teacher, Path) and source == "cached"

    def _load_teacher(self, context: StageContext) -> nn.Module | None:
        """Return the teacher's network; None without a teacher, or if cached logits are enough."""
        if not isinstance(self.teacher, Path):
            return self.teacher
        if self._is_cached and not self.reads_maps:
            return None
        return load_live_teacher(self.teacher, torch.device(context.device))

    def fill_cache(
        self, learning: Learning, context: StageContext, layers: Sequence[Layer] = ()
    ) -> CachedTeacher:
        """Cache the teacher's logits, and the maps of some layers, on this node, or open the cache.

        Args:
            learning: Data and precision of the student's training.
            context: Machine and folders.
            layers: Layers whose maps are cached too.
        """
        assert isinstance(self.teacher, Path)  # noqa: S101 - a network that is given runs live
        return cache_teacher(
            self.teacher,
            learning.data.open_cached("train", context.cache_dir),
            context,
            self.logits,
            precision=learning.training.precision,
            maps={layer.key: _describe_map(layer) for layer in layers},
        )


def _describe_map(layer: Layer) -> InnerMap:
    def read(teacher: nn.Module, images: Tensor) -> Tensor:
        with FeatureTaps(teacher, (layer,)) as taps:
            teacher(images)
            return cut_padding(taps.take()[layer.key], layer.stride, images.shape[-2:])

    return InnerMap(layer.channels, layer.stride, read)


def read_cached_logits(logits: Tensor, batch: Batch) -> Tensor:
    """Return the teacher's logits of a batch, enlarged to the size of the student's logits."""
    if batch.teacher_logits is None:
        raise ValueError("the batch must contain the teacher's logits, but its stream has none")
    return enlarge(batch.teacher_logits, logits.shape[-2:])


def load_live_teacher(checkpoint: Path, device: torch.device) -> nn.Module:
    """Load the teacher, frozen and in eval mode."""
    return place(load_checkpoint(checkpoint).requires_grad_(False), device)


def ask_live(teacher: nn.Module) -> TeacherFunction:
    """Return a function that runs the teacher on the batch's images."""

    def ask(logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            images = batch.images
            if (
                batch.pixels is not None
            ):  # the teacher may have another normalisation than the student
                images = normalize(batch.pixels, normalization_of(teacher))
            answer: Tensor = teacher(images)
        return answer

    return ask
