"""The sum of several losses: "kd+skd" adds both, each with its own settings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trainables.distillers.distiller import Lesson, TeachingLoss


class SumOfLosses(TeachingLoss):
    """Adds the parts; the weight of the labels is that of the part that sets one.

    Args:
        parts: Losses to add, at least one.
    """

    def __init__(self, parts: Sequence[TeachingLoss]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.student_layers = tuple(layer for part in parts for layer in part.student_layers)
        self.teacher_layers = tuple(layer for part in parts for layer in part.teacher_layers)
        stated = [part for part in parts if _speaks_of_labels(part)]
        if stated:
            self.label_weight, self.label_share = stated[0].label_weight, stated[0].label_share

    def forward(self, lesson: Lesson) -> Tensor:
        """See `TeachingLoss.forward`."""
        return sum((part(lesson) for part in self.parts), start=lesson.student_logits.new_zeros(()))


def _speaks_of_labels(loss: TeachingLoss) -> bool:
    return loss.label_weight is not None or loss.label_share is not None
