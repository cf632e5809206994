"""Plain distillation of softened logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainables.distillers.checks import check_temperature
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss
from trainables.losses import kd_loss
from trainables.ranges import FloatRange, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class KDSettings:
    """alpha KL(teacher || student) + (1 - alpha) CE.

    Attributes:
        temperature: Temperature T > 0, which divides the logits of both networks.
        alpha: Weight of the teacher, in 0..1; the labels have weight 1 - alpha.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    alpha: float = setting(0.5, FloatRange(low=0.0, high=1.0), symbol="α")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in 0..1 for kd, got {self.alpha}")


class KD(Distiller):
    """Knowledge distillation.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; equation 3 of the
        dual-branch paper (Chen et al. 2026), which states no alpha; 0.5 is our choice.
    """

    name = "kd"
    Settings = KDSettings

    def build(
        self,
        settings: KDSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        return _KDLoss(settings)


class _KDLoss(TeachingLoss):
    def __init__(self, settings: KDSettings) -> None:
        super().__init__()
        self.settings = settings
        self.label_weight = 1 - settings.alpha

    def forward(self, lesson: Lesson) -> Tensor:
        divergence = kd_loss(
            lesson.student_logits,
            lesson.taught_logits,
            self.settings.temperature,
            lesson.target,
            class_weights=lesson.class_weights,
        )
        return self.settings.alpha * divergence
