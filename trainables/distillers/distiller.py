"""The interface of distillers: settings, requirements, and the loss of one training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.distillers.layers import Layer
from trainables.losses import cross_entropy
from trainables.process.distributed import sum_over_processes

NO_FEATURES: Mapping[str, Tensor] = {}


class Lesson(NamedTuple):
    """One batch as the losses receive it.

    For a loss on frame pairs, images 0 and 1 are consecutive frames, and so are 2 and 3, and so on.

    Attributes:
        student_logits: Logits of the student, (N, C, H, W) float.
        teacher_logits: Logits of the teacher, (N, C, H, W) float without gradient; None without a
            teacher.
        target: Labels, (N, H, W) integer, classes 0..C-1 or 255.
        class_weights: Weight of each class, (C,) float; None: all equal.
        student_features: Maps of the student, (N, c, h, w), by `Layer.key`.
        teacher_features: Maps of the teacher likewise, without gradient.
    """

    student_logits: Tensor
    teacher_logits: Tensor | None
    target: Tensor
    class_weights: Tensor | None = None
    student_features: Mapping[str, Tensor] = NO_FEATURES
    teacher_features: Mapping[str, Tensor] = NO_FEATURES

    @property
    def taught_logits(self) -> Tensor:
        """The teacher's logits, for losses that require them."""
        if self.teacher_logits is None:
            raise ValueError("this loss needs the teacher's logits, but the lesson has none")
        return self.teacher_logits


class TeachingLoss(nn.Module, ABC):
    """The teacher's part of the loss of one training, with its trainable projections.

    Its parameters are trained together with the student's and belong to the training state, but are
    not part of the student.

    Attributes:
        student_layers: Layers of the student whose maps `forward` reads.
        teacher_layers: Layers of the teacher whose maps it reads.
        label_weight: Weight of the labels' cross-entropy. None: not set, which means 1 unless
            another part of a combination sets it.
        label_share: Fraction of the whole loss that the labels are kept at; None: not fixed.
    """

    student_layers: tuple[Layer, ...] = ()
    teacher_layers: tuple[Layer, ...] = ()
    label_weight: float | None = None
    label_share: float | None = None

    @abstractmethod
    def forward(self, lesson: Lesson) -> Tensor:
        """Compute the teacher's part of the loss, a scalar weighted according to the settings.

        If several processes share the batch, each computes its share: a mean divides by the count
        in all of them (`sum_over_processes`).
        """

    def compute_total(self, lesson: Lesson) -> Tensor:
        """Compute the whole loss: labels, counted once, plus the teacher's part.

        Args:
            lesson: The batch.

        Returns:
            Scalar in nats.
        """
        weight = 1.0 if self.label_weight is None else self.label_weight
        # Autocast would compute with the float32 maps in bfloat16 again.
        with torch.autocast(lesson.student_logits.device.type, enabled=False):
            taught: Tensor = self(lesson)
            if weight == 0:
                return taught
            labels = weight * cross_entropy(
                lesson.student_logits, lesson.target, class_weights=lesson.class_weights
            )
            if self.label_share is not None:
                taught = taught * _balance(labels, taught, self.label_share)
            return labels + taught


class Distiller(ABC):
    """A distillation method; one object serves all trainings.

    Attributes:
        name: Key in `DISTILLERS`.
        Settings: Frozen dataclass of the settings; each searched field is declared by
            `trainables.ranges.setting`.
        needs_teacher: Whether it uses a teacher at all.
        needs_features: Whether it reads maps inside the networks, which requires the teacher
            network itself and not only its logits.
        needs_pairs: Whether images must come as pairs of consecutive frames.
    """

    name: str
    Settings: type
    needs_teacher: bool = True
    needs_features: bool = False
    needs_pairs: bool = False

    @abstractmethod
    def build(
        self,
        settings: Any,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """Build the loss of one training.

        Args:
            settings: An instance of `Settings`.
            student: Student network, pruned or not.
            teacher: Teacher network; None if only its logits are available.
            image_size: Height and width of a training image, at which layers are searched.

        Raises:
            ValueError: A named layer does not exist, or the teacher is needed and missing.
        """


def require_teacher(teacher: nn.Module | None, name: str) -> nn.Module:
    """Return the teacher for a method that reads its features.

    Raises:
        ValueError: There is no teacher network.
    """
    if teacher is None:
        raise ValueError(
            f"distiller {name} reads maps inside the teacher, so it needs the network itself; got "
            "only its logits (pass the teacher network)"
        )
    return teacher


def _balance(labels: Tensor, taught: Tensor, share: float) -> Tensor:
    """Return the factor on the teacher's part that gives the labels their share, detached."""
    labels, taught = (sum_over_processes(loss.detach()) for loss in (labels, taught))
    factor = labels * (1 - share) / (share * taught)
    return torch.where(taught > 0, factor, 1.0).clamp(max=1e6)
