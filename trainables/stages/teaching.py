"""A teacher's part in a training: its logits, its maps, and the loss that compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from trainables.learning.teacher_cache import CachedTeacher, TeacherLogitsConfig, cache_teacher
from trainables.learning.training import Batch, LossFunction, place
from trainables.stages.learning import Learning

# (student logits, batch) -> teacher logits of the same shape
TeacherFunction = Callable[[Tensor, Batch], Tensor]


class Lessons(NamedTuple):
    """What a training with a teacher needs, besides data and schedule.

    Attributes:
        compute_loss: Loss of the training, on labels and teacher.
        beside: Module that is trained together with the student, such as projections.
        cached: The teacher's cached logits, which belong into the batches; None: no cache is used.
        has_pairs: Whether images must come as pairs of consecutive frames.
    """

    compute_loss: LossFunction
    beside: TeachingLoss
    cached: CachedTeacher | None
    has_pairs: bool


class _Source(NamedTuple):
    """Where the teacher's logits come from; `network` is None if they are cached or not needed."""

    ask: TeacherFunction
    network: nn.Module | None = None
    cached: CachedTeacher | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """Distillation of a teacher into a student.

    Attributes:
        methods: Settings of each distiller, by its name in `DISTILLERS`.
        teacher: The teacher: a checkpoint, or a network in eval mode on the device of the training;
            None if no distiller needs one.
        logits: Source of the teacher's logits; "live" if a distiller reads maps inside the teacher.
            A teacher that is given as a network runs at every step regardless of this.
    """

    methods: Mapping[str, Any]
    teacher: Path | nn.Module | None
    logits: TeacherLogitsConfig

    @contextmanager
    def begin(
        self, student: nn.Module, learning: Learning, context: StageContext
    ) -> Iterator[Lessons]:
        """Open the teacher and read both networks' maps until the block ends.

        Args:
            student: Network that is trained within the block.
            learning: Data, schedule and seed of that training.
            context: Machine and folders.
        """
        source = self._open_teacher(learning, context)
        torch.manual_seed(learning.seed)  # initial weights of projections
        loss = build_loss(
            self.methods,
            student=student,
            teacher=source.network,
            image_size=learning.data.augmentation.crop_size,
        )
        class_weights = learning.class_weights(context)
        with (
            FeatureTaps(student, loss.student_layers) as own,
            FeatureTaps(source.network, loss.teacher_layers) as other,
        ):

            def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
                taught = source.ask(logits, batch)
                return loss.compute_total(
                    Lesson(logits, taught, batch.target, class_weights, own.take(), other.take())
                )

            has_pairs = any(DISTILLERS[name].needs_pairs for name in self.methods)
            yield Lessons(compute_loss, loss, source.cached, has_pairs)

    def _open_teacher(self, learning: Learning, context: StageContext) -> _Source:
        teacher = self.teacher
        if teacher is None:
            return _Source(lambda logits, batch: logits.detach())
        if isinstance(teacher, nn.Module):
            return _Source(ask_live(teacher), teacher)
        if not self.logits.cached:
            network = load_live_teacher(teacher, torch.device(context.device))
            return _Source(ask_live(network), network)
        return _Source(read_cached_logits, cached=self.fill_cache(learning, context))

    def fill_cache(self, learning: Learning, context: StageContext) -> CachedTeacher:
        """Cache the logits of all training images on this node, or open the cache.

        Args:
            learning: Data and precision of the student's training.
            context: Machine and folders.
        """
        assert isinstance(self.teacher, Path)  # noqa: S101 - a network that is given runs live
        return cache_teacher(
            self.teacher,
            learning.data.open_cached("train", context.cache_dir),
            context,
            self.logits,
            precision=learning.training.precision,
        )


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
