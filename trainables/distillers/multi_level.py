"""Paper 5: activations, spatial structure, dependency between adjacent frames, and consistency.

Only the paper's abstract was available. docs/distillers.md explains our design and each choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.distillers.checks import check_weight, split_layers
from trainables.distillers.combination import SumOfLosses
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss, require_teacher
from trainables.distillers.feature_pairs import FeaturePairs, pair_fusion, pair_stages
from trainables.distillers.map_part import WEIGHTS, MapPartSettings
from trainables.distillers.maps import shrink_to_nodes, valid_cells
from trainables.distillers.similarity import similarities, similarity_loss
from trainables.distillers.skd import SpatialStructureLoss
from trainables.process.distributed import sum_over_processes
from trainables.ranges import setting

MAX_SIDE = 24
# Scales of distance (relative to an image's side) and of similarity for matching positions of two
# frames.
REACH = 0.1
LIKENESS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSettings:
    """Settings of one part, which is scaled by weight.

    Attributes:
        weight: Weight of the part, at least 0; the labels have weight 1.
    """

    weight: float = setting(1.0, WEIGHTS, symbol="w")

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLevelSettings:
    """Settings of the four parts; a weight of 0 leaves a part out.

    The abstract states no weights; all of them are our choice.

    Attributes:
        low_weight: Weight of the activations of the backbone's stages.
        mid_weight: Weight of the spatial structure of the fused map.
        high_weight: Weight of the dependency between the predictions for adjacent frames.
        consistency_weight: Weight of the consistency of these predictions.
    """

    low_weight: float = setting(1.0, WEIGHTS, symbol="low")
    mid_weight: float = setting(1.0, WEIGHTS, symbol="mid")
    high_weight: float = setting(1.0, WEIGHTS, symbol="high")
    consistency_weight: float = setting(1.0, WEIGHTS, symbol="consistency")

    def __post_init__(self) -> None:
        names = ("low_weight", "mid_weight", "high_weight", "consistency_weight")
        for name in names:
            check_weight(name, getattr(self, name))
        if not any(getattr(self, name) for name in names):
            raise ValueError("at least one of the four weights of multi_level must be above 0")


class LowLevel(Distiller):
    """Compares where the stages of the backbone are active."""

    name = "low_level"
    Settings = MapPartSettings
    needs_features = True

    def build(
        self,
        settings: MapPartSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        given = require_teacher(teacher, self.name)
        names = split_layers(settings.layers, settings.teacher_layers)
        pairs = pair_stages(student, given, image_size, names, projected=False)
        return _ActivationLoss(pairs, settings.weight)


class MidLevel(Distiller):
    """Compares the spatial structure of the fused map: `skd` with another weight and resolution."""

    name = "mid_level"
    Settings = MapPartSettings
    needs_features = True

    def build(
        self,
        settings: MapPartSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        given = require_teacher(teacher, self.name)
        names = split_layers(settings.layers, settings.teacher_layers)
        pairs = pair_fusion(student, given, image_size, names, projected=False)
        return SpatialStructureLoss(pairs, settings.weight, MAX_SIDE)


class HighLevel(Distiller):
    """Compares the similarities between the predictions for two adjacent frames."""

    name = "high_level"
    Settings = LevelSettings
    needs_pairs = True

    def build(
        self,
        settings: LevelSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        return _DependencyLoss(settings.weight)


class Consistency(Distiller):
    """Makes the predictions for matching positions of two adjacent frames agree."""

    name = "consistency"
    Settings = LevelSettings
    needs_pairs = True

    def build(
        self,
        settings: LevelSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        return _ConsistencyLoss(settings.weight)


class MultiLevel(Distiller):
    """The sum of all four parts.

    Source: paper 5, "Semantic segmentation method for continuous images based on multi-level
        knowledge distillation", Computer Integrated Manufacturing Systems 29(4), 2023, 1244-1253,
        the abstract.
    """

    name = "multi_level"
    Settings = MultiLevelSettings
    needs_features = True
    needs_pairs = True

    def build(
        self,
        settings: MultiLevelSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        parts: tuple[tuple[Distiller, float], ...] = (
            (LowLevel(), settings.low_weight),
            (MidLevel(), settings.mid_weight),
            (HighLevel(), settings.high_weight),
            (Consistency(), settings.consistency_weight),
        )
        return SumOfLosses(
            [
                part.build(
                    part.Settings(weight=weight),
                    student=student,
                    teacher=teacher,
                    image_size=image_size,
                )
                for part, weight in parts
                if weight
            ]
        )


class _ActivationLoss(TeachingLoss):
    """KL of the spatial activation of stages, averaged over the stages."""

    def __init__(self, pairs: FeaturePairs, weight: float) -> None:
        super().__init__()
        self.pairs = pairs
        self.student_layers, self.teacher_layers = pairs.student_layers, pairs.teacher_layers
        self.weight = weight

    def forward(self, lesson: Lesson) -> Tensor:
        total = lesson.student_logits.new_zeros(())
        for own, taught, valid in self.pairs.read(lesson):
            total = total + activation_loss(own, taught, valid)
        return self.weight * total / len(self.student_layers)


class _DependencyLoss(TeachingLoss):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, lesson: Lesson) -> Tensor:
        own = _split_pairs(_shrunken_probabilities(lesson.student_logits))
        taught = _split_pairs(_shrunken_probabilities(lesson.taught_logits))
        valid = _split_pairs(valid_cells(lesson.target, own[0].shape[-2:]))
        return self.weight * similarity_loss(own, taught, valid)


class _ConsistencyLoss(TeachingLoss):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, lesson: Lesson) -> Tensor:
        own = _split_pairs(_shrunken_probabilities(lesson.student_logits))
        taught = _split_pairs(_shrunken_probabilities(lesson.taught_logits))
        valid = _split_pairs(valid_cells(lesson.target, own[0].shape[-2:]))
        return self.weight * consistency_loss(own, taught, valid)


def activation_loss(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Return KL(teacher || student) of the spatial activation: squares, summed over channels.

    The loss does not change when either map is multiplied by a number or its channels are rotated.

    Args:
        student: Map of the student, (N, c, h, w) float.
        teacher: Map of the teacher, (N, C, h, w) float.
        valid: Positions that count, (N, h, w) bool.

    Returns:
        Scalar in nats, averaged over the images; 0 if no position counts.
    """
    counts = valid.flatten(1)
    shares = []
    for values in (student, teacher):
        energy = values.square().mean(dim=1).flatten(1)
        # Add a constant relative to the mean, so that the logarithm is finite where there is no
        # activity.
        mean = (energy * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)
        energy = torch.where(counts, energy / mean.clamp(min=1e-12) + 1e-3, 0.0)
        shares.append(energy / energy.sum(dim=1, keepdim=True).clamp(min=1e-12))
    own, taught = shares
    gaps = torch.where(counts, taught.clamp(min=1e-12).log() - own.clamp(min=1e-12).log(), 0.0)
    counted = sum_over_processes(counts.any(dim=1).sum()).clamp(min=1)
    return (taught.detach() * gaps).sum() / counted


def consistency_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the squared difference of the probabilities at matching positions of two frames.

    Matches are soft and come from the teacher: a position of the next frame has the weight
    exp(cosine of the teacher's probabilities / 0.1 - distance^2 / (2 x 0.1^2)), with distances
    relative to the image's sides. No optical flow is needed.

    Args:
        student: Probabilities of the student for both frames, (N, C, h, w) each.
        teacher: Probabilities of the teacher likewise.
        valid: Positions that count in each frame, (N, h, w) bool each.

    Returns:
        Scalar in 0..2; 0 if no position counts.
    """
    height, width = student[0].shape[-2:]
    alike = similarities(*teacher).detach() / LIKENESS - _squared_distances(
        height, width, student[0]
    ) / (2 * REACH**2)
    here, there = (v.flatten(1) for v in valid)
    alike = alike.masked_fill(~there.unsqueeze(1), -torch.inf)
    counts = here & there.any(dim=1, keepdim=True)
    matches = torch.where(counts.unsqueeze(2), alike, 0.0).softmax(dim=2)
    brought = matches @ student[1].flatten(2).transpose(1, 2)
    gaps = (student[0].flatten(2).transpose(1, 2) - brought).square().sum(dim=2)
    return torch.where(counts, gaps, 0.0).sum() / sum_over_processes(counts.sum()).clamp(min=1)


def _shrunken_probabilities(logits: Tensor) -> Tensor:
    return shrink_to_nodes(logits, MAX_SIDE).softmax(dim=1)


def _split_pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second frames of a batch of pairs.

    Raises:
        ValueError: The batch has no pairs.
    """
    if len(values) % 2:
        raise ValueError(f"frame pairs need an even number of images in a batch, got {len(values)}")
    return values[0::2], values[1::2]


def _squared_distances(height: int, width: int, like: Tensor) -> Tensor:
    """Return (hw, hw) squared distances of the cells' centres, relative to the image's sides."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype) / height
    columns = torch.arange(width, device=like.device, dtype=like.dtype) / width
    places = torch.cartesian_prod(rows, columns).view(-1, 2)
    return (places.unsqueeze(1) - places.unsqueeze(0)).square().sum(dim=2)
