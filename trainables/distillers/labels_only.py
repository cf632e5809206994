"""Training on labels only, the baseline of every distiller."""

from __future__ import annotations

from torch import Tensor, nn

from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss
from trainables.settings import NoSettings


class LabelsOnly(Distiller):
    """Fine-tuning without a teacher."""

    name = "none"
    Settings = NoSettings
    needs_teacher = False

    def build(
        self,
        settings: NoSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        return _NoTeaching()


class _NoTeaching(TeachingLoss):
    def forward(self, lesson: Lesson) -> Tensor:
        return lesson.student_logits.new_zeros(())
