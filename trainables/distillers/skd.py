"""Structured distillation: similarities between positions of the fused map."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainables.distillers.checks import check_weight, split_layers
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss, require_teacher
from trainables.distillers.feature_pairs import FeaturePairs, pair_fusion
from trainables.distillers.maps import shrink_to_nodes, valid_cells
from trainables.distillers.similarity import similarity_loss
from trainables.ranges import FloatRange, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class SKDSettings:
    """weight x the mean squared difference of pairwise similarities.

    Attributes:
        weight: Weight of the loss, at least 0; the labels have weight 1.
        max_side: Largest number of cells along each side that the map is averaged to, at least 1.
            Memory grows with its fourth power.
        layers: Names of the student's layers, comma separated; empty: found automatically.
        teacher_layers: Names of the teacher's layers, in the same order.
    """

    weight: float = setting(10.0, FloatRange(low=0.3, high=30.0, log=True), symbol="w")
    max_side: int = setting(32, (32,))
    layers: str = setting("", ("",))
    teacher_layers: str = setting("", ("",))

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        split_layers(self.layers, self.teacher_layers)
        if self.max_side < 1:
            raise ValueError(f"max_side must be at least 1, got {self.max_side}")


class SKD(Distiller):
    """The pair-wise part of structured knowledge distillation, for networks of any widths.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
        https://arxiv.org/abs/1903.04197, equation 3, with weight 10.
    Differs: their pixel-wise part is `kd` ("kd+skd" has both); nodes are the mean of their cells,
        not the maximum; the holistic part, an adversarial discriminator, is left out for the
        reasons in docs/distillers.md.
    """

    name = "skd"
    Settings = SKDSettings
    needs_features = True

    def build(
        self,
        settings: SKDSettings,
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
            projected=False,
        )
        return SpatialStructureLoss(pairs, settings.weight, settings.max_side)


class SpatialStructureLoss(TeachingLoss):
    """Compares the similarities between all positions of a map, averaged over the pairs of maps."""

    def __init__(self, pairs: FeaturePairs, weight: float, max_side: int) -> None:
        super().__init__()
        self.pairs = pairs
        self.student_layers, self.teacher_layers = pairs.student_layers, pairs.teacher_layers
        self.weight, self.max_side = weight, max_side

    def forward(self, lesson: Lesson) -> Tensor:
        """See `TeachingLoss.forward`."""
        total = lesson.student_logits.new_zeros(())
        for own, taught, _ in self.pairs.read(lesson):
            own, taught = (shrink_to_nodes(values, self.max_side) for values in (own, taught))
            valid = valid_cells(lesson.target, own.shape[-2:])
            total = total + similarity_loss((own, own), (taught, taught), (valid, valid))
        return self.weight * total / len(self.student_layers)
