"""Decoupled distillation of logits, with labels of fixed weight or of fixed share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainables.distillers.checks import check_share, check_temperature, check_weight
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss
from trainables.losses import decoupled_kd_loss
from trainables.ranges import FloatRange, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class DKDSettings:
    """alpha TCKD + beta NCKD + eta CE.

    Attributes:
        temperature: Temperature T > 0, which divides the logits of both networks.
        alpha: Weight of TCKD, at least 0.
        beta: Weight of NCKD, at least 0.
        eta: Weight of the cross-entropy, at least 0.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    alpha: float = setting(1.0, FloatRange(low=0.0, high=2.0), symbol="α")
    beta: float = setting(8.0, FloatRange(low=0.0, high=10.0), symbol="β")
    eta: float = setting(1.0, FloatRange(low=0.5, high=2.0), symbol="η")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        for name in ("alpha", "beta", "eta"):
            check_weight(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True)
class DKDShareSettings:
    """CE + k (TCKD + beta NCKD), with k such that CE makes up `label_share` of the loss.

    Attributes:
        temperature: Temperature T > 0, which divides the logits of both networks.
        beta: Weight of NCKD relative to TCKD, at least 0.
        label_share: Fraction of the cross-entropy in the loss at every step, in 0..1.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    beta: float = setting(8.0, FloatRange(low=0.0, high=10.0), symbol="β")
    label_share: float = setting(0.5, FloatRange(low=0.2, high=0.9), symbol="labels")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_weight("beta", self.beta)
        check_share("label_share", self.label_share)


class DKD(Distiller):
    """Decoupled knowledge distillation.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022; equation 4 of the
        dual-branch paper (Chen et al. 2026), whose section 2.4 has T 4, alpha 1, beta 8, eta 1.
    """

    name = "dkd"
    Settings = DKDSettings

    def build(
        self,
        settings: DKDSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        loss = _DKDLoss(settings.temperature, settings.alpha, settings.beta)
        loss.label_weight = settings.eta
        return loss


class DKDShare(Distiller):
    """DKD in which the labels keep a fixed share of the loss at every step.

    Differs: DKD has fixed weights. At T 4 and beta 8 the labels are then less than a hundredth of
        the loss in a fine-tuning.
    """

    name = "dkd_share"
    Settings = DKDShareSettings

    def build(
        self,
        settings: DKDShareSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        loss = _DKDLoss(settings.temperature, 1.0, settings.beta)
        loss.label_share = settings.label_share
        return loss


class _DKDLoss(TeachingLoss):
    def __init__(self, temperature: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def forward(self, lesson: Lesson) -> Tensor:
        return decoupled_kd_loss(
            lesson.student_logits,
            lesson.taught_logits,
            lesson.target,
            self.temperature,
            self.alpha,
            self.beta,
            class_weights=lesson.class_weights,
        )
