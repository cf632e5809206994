"""Channel-wise distillation of the spatial activation of logits and of the fused map."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainables.distillers.checks import check_temperature, check_weight, split_layers
from trainables.distillers.combination import SumOfLosses
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss, require_teacher
from trainables.distillers.feature_pairs import FeaturePairs, pair_fusion
from trainables.distillers.maps import valid_cells
from trainables.losses import channel_kd_loss
from trainables.ranges import FloatRange, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class CWDSettings:
    """Settings of both parts, with one temperature; a weight of 0 leaves a part out.

    Attributes:
        temperature: Temperature T > 0, which divides logits and maps of both networks.
        weight: Weight of the logits' part, at least 0; the labels have weight 1.
        feature_weight: Weight of the part on the map that the classes are computed from, at least
            0.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    weight: float = setting(3.0, FloatRange(low=0.1, high=10.0, log=True), symbol="w")
    feature_weight: float = setting(
        50.0, FloatRange(low=1.0, high=100.0, log=True), symbol="feature"
    )

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_weight("weight", self.weight)
        check_weight("feature_weight", self.feature_weight)
        if not (self.weight or self.feature_weight):
            raise ValueError("weight or feature_weight of cwd must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitCWDSettings:
    """weight x KL over the positions of each class's logits.

    Attributes:
        temperature: Temperature T > 0, which divides the logits of both networks.
        weight: Weight of the loss, at least 0; the labels have weight 1.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    weight: float = setting(3.0, FloatRange(low=0.1, high=10.0, log=True), symbol="w")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_weight("weight", self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCWDSettings:
    """weight x KL over the positions of each channel of the map before the classifier.

    Attributes:
        temperature: Temperature T > 0, which divides the maps of both networks.
        weight: Weight of the loss, at least 0; the labels have weight 1.
        layers: Names of the student's layers, comma separated; empty: found automatically.
        teacher_layers: Names of the teacher's layers, in the same order.
    """

    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")
    weight: float = setting(50.0, FloatRange(low=1.0, high=100.0, log=True), symbol="w")
    layers: str = setting("", ("",))
    teacher_layers: str = setting("", ("",))

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_weight("weight", self.weight)
        split_layers(self.layers, self.teacher_layers)


class LogitCWD(Distiller):
    """Channel-wise distillation of the logits.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
        https://arxiv.org/abs/2011.13256, with T 4 and weight 3.
    """

    name = "cwd_logits"
    Settings = LogitCWDSettings

    def build(
        self,
        settings: LogitCWDSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        return LogitCWDLoss(settings.temperature, settings.weight)


class FeatureCWD(Distiller):
    """Channel-wise distillation of the fused map, with a 1x1 convolution if widths differ.

    Source: as for `LogitCWD`, with weight 50 for a feature map.
    """

    name = "cwd_features"
    Settings = FeatureCWDSettings
    needs_features = True

    def build(
        self,
        settings: FeatureCWDSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        pairs = pair_fusion(
            student,
            require_teacher(teacher, self.name),
            image_size,
            split_layers(settings.layers, settings.teacher_layers),
        )
        return FeatureCWDLoss(pairs, settings.temperature, settings.weight)


class CWD(Distiller):
    """Channel-wise distillation of the logits and of the fused map.

    Source: as for `LogitCWD`, with weights 3 and 50.
    """

    name = "cwd"
    Settings = CWDSettings
    needs_features = True

    def build(
        self,
        settings: CWDSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        parts: list[TeachingLoss] = []
        if settings.weight:
            parts.append(LogitCWDLoss(settings.temperature, settings.weight))
        if settings.feature_weight:
            pairs = pair_fusion(student, require_teacher(teacher, self.name), image_size)
            parts.append(FeatureCWDLoss(pairs, settings.temperature, settings.feature_weight))
        return SumOfLosses(parts)


class LogitCWDLoss(TeachingLoss):
    """weight x T^2 / C x the sum of KL over channels; see `channel_kd_loss`."""

    def __init__(self, temperature: float, weight: float) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, lesson: Lesson) -> Tensor:
        """See `TeachingLoss.forward`."""
        valid = valid_cells(lesson.target, lesson.student_logits.shape[-2:])
        divergence = channel_kd_loss(
            lesson.student_logits, lesson.taught_logits, self.temperature, valid
        )
        return self.weight * divergence


class FeatureCWDLoss(TeachingLoss):
    """The same loss on maps inside the networks, averaged over the pairs of maps."""

    def __init__(self, pairs: FeaturePairs, temperature: float, weight: float) -> None:
        super().__init__()
        self.pairs = pairs
        self.student_layers, self.teacher_layers = pairs.student_layers, pairs.teacher_layers
        self.temperature, self.weight = temperature, weight

    def forward(self, lesson: Lesson) -> Tensor:
        """See `TeachingLoss.forward`."""
        losses = [
            channel_kd_loss(own, taught, self.temperature, valid)
            for own, taught, valid in self.pairs.read(lesson)
        ]
        return self.weight * sum(losses, start=lesson.student_logits.new_zeros(())) / len(losses)
