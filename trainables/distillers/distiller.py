"""What every distiller is: settings, needs, and the loss that it builds for one training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.distillers.layers import Layer
from trainables.losses import cross_entropy

NO_FEATURES: Mapping[str, Tensor] = {}


class Lesson(NamedTuple):
    """One batch as the losses see it.

    For a loss on frame pairs images 0 and 1 are neighbouring frames, and so are 2 and 3, ...

    Attributes:
        student_logits: (N, C, H, W) float.
        teacher_logits: (N, C, H, W) float without gradient; None if no teacher was asked.
        target: (N, H, W) integer, classes 0..C-1 or 255.
        class_weights: (C,) float; None: all classes count alike.
        student_features: Maps (N, c, h, w) by `Layer.key`.
        teacher_features: As `student_features`, without gradient.
    """

    student_logits: Tensor
    teacher_logits: Tensor | None
    target: Tensor
    class_weights: Tensor | None = None
    student_features: Mapping[str, Tensor] = NO_FEATURES
    teacher_features: Mapping[str, Tensor] = NO_FEATURES

    @property
    def taught_logits(self) -> Tensor:
        """The teacher's logits, for losses that cannot do without."""
        if self.teacher_logits is None:
            raise ValueError("this loss compares with a teacher's logits; the lesson has none")
        return self.teacher_logits


class TeachingLoss(nn.Module, ABC):
    """The teacher's part of the loss of one training, with its trainable projections.

    Its parameters are trained beside the student's and belong to the state of the training; they
    are no part of the student.

    Attributes:
        student_layers: Layers of the student whose maps `forward` reads.
        teacher_layers: Layers of the teacher whose maps it reads.
        label_weight: Weight of the labels' cross-entropy; None: the method does not say, which
            means 1 unless another part of a combination says it.
        label_share: Share of the whole loss that the labels are held at; None: not held.
    """

    student_layers: tuple[Layer, ...] = ()
    teacher_layers: tuple[Layer, ...] = ()
    label_weight: float | None = None
    label_share: float | None = None

    @abstractmethod
    def forward(self, lesson: Lesson) -> Tensor:
        """What the teacher adds to the loss: a scalar, weighted as the settings say."""

    def compute_total(self, lesson: Lesson) -> Tensor:
        """The whole loss: labels, counted once, and teacher.

        Args:
            lesson: The batch.

        Returns:
            Scalar in nats.
        """
        weight = 1.0 if self.label_weight is None else self.label_weight
        # Autocast would multiply the float32 maps in bfloat16 again.
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
    """One way to teach; the same object for all trainings.

    Attributes:
        name: Key in `DISTILLERS`.
        Settings: Frozen dataclass of what can be set, each searched field declared by
            `trainables.ranges.setting`.
        needs_teacher: Whether it looks at a teacher at all.
        needs_features: Whether it reads maps inside the networks, so that the teacher itself must
            be at hand and not only its logits.
        needs_pairs: Whether images must come as pairs of neighbouring frames.
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
        """Make the loss of one training.

        Args:
            settings: A `Settings`.
            student: Network to be taught, pruned or not.
            teacher: Network that teaches; None where only its logits are at hand.
            image_size: Height and width of a training image, at which layers are looked for.

        Raises:
            ValueError: A named layer does not exist, or what is needed is not given.
        """


def require_teacher(teacher: nn.Module | None, name: str) -> nn.Module:
    """The teacher of a method that reads its features.

    Raises:
        ValueError: There is none.
    """
    if teacher is None:
        raise ValueError(
            f"distiller {name} reads maps inside the teacher, so it needs the network itself; got "
            "its logits alone (let the teacher be live)"
        )
    return teacher


def _balance(labels: Tensor, taught: Tensor, share: float) -> Tensor:
    """Factor of the teacher's part at which the labels make up the share; no gradient."""
    labels, taught = labels.detach(), taught.detach()
    factor = labels * (1 - share) / (share * taught)
    return torch.where(taught > 0, factor, 1.0).clamp(max=1e6)
