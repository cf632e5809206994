"""What a student learns from: the labels alone, or a teacher as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.losses import cross_entropy, decoupled_kd_loss, kd_loss

DistillerName = Literal["dkd", "kd", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillerConfig:
    """How teacher and labels are weighed.

    Attributes:
        name: dkd: alpha TCKD + beta NCKD + eta CE; kd: alpha KL + (1 - alpha) CE; none: CE only.
        temperature: T > 0.
        alpha: Weight of TCKD (dkd), at least 0; of KL (kd), within 0..1.
        beta: Weight of NCKD (dkd), at least 0.
        eta: Weight of the cross-entropy (dkd), at least 0.
    """

    name: DistillerName = "dkd"
    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in DISTILLERS:
            raise ValueError(f"distiller must be one of {', '.join(DISTILLERS)}; got {self.name!r}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, got {self.temperature}")
        for field in ("alpha", "beta", "eta"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must be at least 0, got {getattr(self, field)}")
        if self.name == "kd" and self.alpha > 1:
            raise ValueError(f"alpha must lie in 0..1 for plain kd, got {self.alpha}")

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss looks at a teacher at all."""
        return self.name != "none"


def _distil_decoupled(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    config: DistillerConfig,
    class_weights: Tensor | None,
) -> Tensor:
    """Equation 4 of the dual-branch paper (Chen et al. 2026)."""
    distilled = decoupled_kd_loss(
        student,
        teacher,
        target,
        config.temperature,
        config.alpha,
        config.beta,
        class_weights=class_weights,
    )
    return distilled + config.eta * cross_entropy(student, target, class_weights=class_weights)


def _distil_plain(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    config: DistillerConfig,
    class_weights: Tensor | None,
) -> Tensor:
    """Equation 3 of the dual-branch paper (Chen et al. 2026)."""
    distilled = kd_loss(student, teacher, config.temperature, target, class_weights=class_weights)
    labelled = cross_entropy(student, target, class_weights=class_weights)
    return config.alpha * distilled + (1 - config.alpha) * labelled


def _learn_labels(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    config: DistillerConfig,
    class_weights: Tensor | None,
) -> Tensor:
    return cross_entropy(student, target, class_weights=class_weights)


# (student logits, teacher logits, target, config, class weights) -> scalar loss
DISTILLERS: dict[
    str, Callable[[Tensor, Tensor, Tensor, DistillerConfig, Tensor | None], Tensor]
] = {
    "dkd": _distil_decoupled,
    "kd": _distil_plain,
    "none": _learn_labels,
}
