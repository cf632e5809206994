"""What a student learns from: the labels alone, or a teacher as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from trainables.losses import cross_entropy, decoupled_kd_loss, kd_loss
from trainables.ranges import FloatRange, setting
from trainables.settings import NoSettings


class Distiller(ABC):
    """A loss of the fine-tuning, with the settings that it has.

    Attributes:
        Settings: A frozen dataclass whose fields are declared with `trainables.ranges.setting`.
        needs_teacher: Whether the loss looks at a teacher at all.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    needs_teacher: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def compute(
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        settings: Any,
        class_weights: Tensor | None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            student: (N, C, H, W) float, unnormalised logits.
            teacher: The same shape; without gradient.
            target: (N, H, W) int64 labels.
            settings: An instance of `Settings`.
            class_weights: (C,) float; None: all equal.

        Returns:
            Scalar.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class DkdSettings:
    """alpha TCKD + beta NCKD + eta CE.

    Attributes:
        temperature: T of the softened logits, above 0.
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
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class DecoupledDistiller(Distiller):
    """Equation 4 of the dual-branch paper (Chen et al. 2026)."""

    Settings = DkdSettings

    @staticmethod
    def compute(
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        settings: DkdSettings,
        class_weights: Tensor | None,
    ) -> Tensor:
        """See `Distiller.compute`."""
        distilled = decoupled_kd_loss(
            student,
            teacher,
            target,
            settings.temperature,
            settings.alpha,
            settings.beta,
            class_weights=class_weights,
        )
        labelled = cross_entropy(student, target, class_weights=class_weights)
        return distilled + settings.eta * labelled


@dataclass(frozen=True, kw_only=True, slots=True)
class KdSettings:
    """alpha KL + (1 - alpha) CE.

    Attributes:
        temperature: T of the softened logits, above 0.
        alpha: Weight of the teacher, within 0..1; the labels weigh the rest.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    alpha: float = setting(0.5, FloatRange(low=0.0, high=1.0), symbol="α")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1 for plain kd, got {self.alpha}")


class PlainDistiller(Distiller):
    """Equation 3 of the dual-branch paper (Chen et al. 2026)."""

    Settings = KdSettings

    @staticmethod
    def compute(
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        settings: KdSettings,
        class_weights: Tensor | None,
    ) -> Tensor:
        """See `Distiller.compute`."""
        distilled = kd_loss(
            student, teacher, settings.temperature, target, class_weights=class_weights
        )
        labelled = cross_entropy(student, target, class_weights=class_weights)
        return settings.alpha * distilled + (1 - settings.alpha) * labelled


class LabelDistiller(Distiller):
    """The labels alone."""

    needs_teacher = False

    @staticmethod
    def compute(
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        settings: NoSettings,
        class_weights: Tensor | None,
    ) -> Tensor:
        """See `Distiller.compute`."""
        return cross_entropy(student, target, class_weights=class_weights)


DISTILLERS: dict[str, type[Distiller]] = {
    "dkd": DecoupledDistiller,
    "kd": PlainDistiller,
    "none": LabelDistiller,
}


def check_temperature(temperature: float) -> None:
    """Raise unless a temperature is above 0.

    Raises:
        ValueError: Names the value.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
