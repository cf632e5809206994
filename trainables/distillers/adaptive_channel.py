"""Paper 2: compares channels of the backbone, of the fused map and of the logits.

Only the paper's abstract was available. docs/distillers.md explains our design and each choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.distillers.checks import check_temperature, check_weight, split_layers
from trainables.distillers.combination import SumOfLosses
from trainables.distillers.cwd import LogitCWDLoss
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss, require_teacher
from trainables.distillers.feature_pairs import FeaturePairs, pair_fusion, pair_stages
from trainables.distillers.map_part import WEIGHTS, MapPartSettings
from trainables.process.distributed import sum_over_processes
from trainables.ranges import FloatRange, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveChannelSettings:
    """Settings of the three parts; a weight of 0 leaves a part out.

    Attributes:
        feature_weight: Weight of the adaptive features of the backbone.
        correlation_weight: Weight of the channel correlations of the fused map.
        significance_weight: Weight of the channel significance of the logits.
        temperature: Temperature T > 0 of the channel significance.
    """

    feature_weight: float = setting(1.0, WEIGHTS, symbol="feature")
    correlation_weight: float = setting(1.0, WEIGHTS, symbol="correlation")
    significance_weight: float = setting(3.0, WEIGHTS, symbol="significance")
    temperature: float = setting(4.0, FloatRange(low=1.0, high=8.0), symbol="T")

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        weights = ("feature_weight", "correlation_weight", "significance_weight")
        for name in weights:
            check_weight(name, getattr(self, name))
        if not any(getattr(self, name) for name in weights):
            raise ValueError(
                "at least one of the three weights of adaptive_channel must be above 0"
            )


class AdaptiveFeature(Distiller):
    """Compares standardised channels of backbone stages, weighted by the teacher's attention."""

    name = "adaptive_feature"
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
        names = split_layers(settings.layers, settings.teacher_layers)
        pairs = pair_stages(student, require_teacher(teacher, self.name), image_size, names)
        return _ChannelLoss(pairs, settings.weight, adaptive_feature_loss)


class ChannelCorrelation(Distiller):
    """Compares the correlations between the channels of the fused map."""

    name = "channel_correlation"
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
        names = split_layers(settings.layers, settings.teacher_layers)
        pairs = pair_fusion(student, require_teacher(teacher, self.name), image_size, names)
        return _ChannelLoss(pairs, settings.weight, channel_correlation_loss)


class AdaptiveChannel(Distiller):
    """The sum of all three parts; the third one, on the logits, is `cwd_logits`.

    Source: paper 2, "Adaptive channel-wise feature distillation in semantic segmentation",
        https://doi.org/10.3969/j.issn.1671-7775.2025.05.009, the abstract.
    Differs: the implementation cannot be compared with the paper's. The abstract states no weights:
        the first two are our choice and the third is that of Shu et al. 2021.
    """

    name = "adaptive_channel"
    Settings = AdaptiveChannelSettings
    needs_features = True

    def build(
        self,
        settings: AdaptiveChannelSettings,
        *,
        student: nn.Module,
        teacher: nn.Module | None,
        image_size: tuple[int, int],
    ) -> TeachingLoss:
        """See `Distiller.build`."""
        given = require_teacher(teacher, self.name)
        parts: list[TeachingLoss] = []
        if settings.feature_weight:
            pairs = pair_stages(student, given, image_size)
            parts.append(_ChannelLoss(pairs, settings.feature_weight, adaptive_feature_loss))
        if settings.correlation_weight:
            pairs = pair_fusion(student, given, image_size)
            parts.append(_ChannelLoss(pairs, settings.correlation_weight, channel_correlation_loss))
        if settings.significance_weight:
            parts.append(LogitCWDLoss(settings.temperature, settings.significance_weight))
        return SumOfLosses(parts)


class _ChannelLoss(TeachingLoss):
    """The mean loss over pairs of maps of equal width."""

    def __init__(
        self,
        pairs: FeaturePairs,
        weight: float,
        compare: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.student_layers, self.teacher_layers = pairs.student_layers, pairs.teacher_layers
        self.weight, self.compare = weight, compare

    def forward(self, lesson: Lesson) -> Tensor:
        total = lesson.student_logits.new_zeros(())
        for own, taught, valid in self.pairs.read(lesson):
            total = total + self.compare(own, taught, valid)
        return self.weight * total / len(self.student_layers)


def adaptive_feature_loss(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Return the squared difference of standardised channels, weighted by the teacher's attention.

    A channel's weight is the attention that all channels of the teacher's map pay to it: softmax(F
    F^T / positions) over each row, with F scaled to a mean square of 1, averaged over the rows. The
    weights of an image have mean 1. The loss does not change when a channel of the student is
    shifted or multiplied by a positive number.

    Args:
        student: Map of the student, (N, C, h, w) float.
        teacher: Map of the teacher, (N, C, h, w) float.
        valid: Positions that count, (N, h, w) bool.

    Returns:
        Scalar; 0 if no position counts.
    """
    own, places = _standardise(student, valid)
    taught, _ = _standardise(teacher, valid)
    weights = _attention_weights(teacher, valid)
    per_channel = (own - taught).square().sum(dim=2) / places.clamp(min=1)
    counted = sum_over_processes((places > 0).sum()).clamp(min=1)
    return (per_channel * weights).mean(dim=1).sum() / counted


def channel_correlation_loss(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Return the mean squared difference of the channels' correlation matrices.

    The loss does not change when a channel of either network is shifted or multiplied by a positive
    number.

    Args:
        student: Map of the student, (N, C, h, w) float.
        teacher: Map of the teacher, (N, C, h, w) float.
        valid: Positions that count, (N, h, w) bool.

    Returns:
        Scalar in 0..4; 0 if no position counts.
    """
    matrices = []
    for values in (student, teacher):
        flat, places = _standardise(values, valid)
        matrices.append(flat @ flat.transpose(1, 2) / places.clamp(min=1).unsqueeze(2))
    counted = sum_over_processes(valid.flatten(1).any(dim=1).sum()).clamp(min=1)
    return (matrices[0] - matrices[1]).square().mean(dim=(1, 2)).sum() / counted


def _standardise(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return channels (N, C, hw) standardised over valid positions, and the counts (N, 1)."""
    counts = valid.flatten(1).unsqueeze(1)
    places = counts.sum(dim=2, keepdim=True).clamp(min=1)
    flat = values.flatten(2)
    centred = torch.where(counts, flat - (flat * counts).sum(2, keepdim=True) / places, 0.0)
    variance = centred.square().sum(dim=2, keepdim=True) / places
    return centred * (variance + 1e-6).rsqrt(), counts.sum(dim=2)


@torch.no_grad()
def _attention_weights(teacher: Tensor, valid: Tensor) -> Tensor:
    """Return (N, C) weights with mean 1."""
    flat = torch.where(valid.flatten(1).unsqueeze(1), teacher.flatten(2), 0.0)
    places = valid.flatten(1).sum(dim=1).clamp(min=1).view(-1, 1, 1)
    energy = flat.square().sum(dim=(1, 2), keepdim=True) / (places * flat.shape[1])
    gram = flat @ flat.transpose(1, 2) / (places * energy.clamp(min=1e-12))
    return gram.softmax(dim=2).mean(dim=1) * flat.shape[1]
