"""What a student learns from: the labels alone, or a teacher as well, in one of many ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from trainables.distillers.adaptive_channel import (
    AdaptiveChannel,
    AdaptiveFeature,
    ChannelCorrelation,
)
from trainables.distillers.combination import SumOfLosses
from trainables.distillers.cwd import CWD, FeatureCWD, LogitCWD
from trainables.distillers.distiller import Distiller, Lesson, TeachingLoss
from trainables.distillers.dkd import DKD, DKDShare
from trainables.distillers.features import FeatureTaps
from trainables.distillers.kd import KD
from trainables.distillers.labels_only import LabelsOnly
from trainables.distillers.multi_level import (
    Consistency,
    HighLevel,
    LowLevel,
    MidLevel,
    MultiLevel,
)
from trainables.distillers.skd import SKD

__all__ = [
    "DISTILLERS",
    "Distiller",
    "FeatureTaps",
    "Lesson",
    "TeachingLoss",
    "build_loss",
    "check_combination",
]

DISTILLERS: dict[str, Distiller] = {
    "dkd": DKD(),
    "kd": KD(),
    "none": LabelsOnly(),
    "dkd_share": DKDShare(),
    "cwd": CWD(),
    "cwd_logits": LogitCWD(),
    "cwd_features": FeatureCWD(),
    "skd": SKD(),
    "adaptive_channel": AdaptiveChannel(),
    "adaptive_feature": AdaptiveFeature(),
    "channel_correlation": ChannelCorrelation(),
    "multi_level": MultiLevel(),
    "low_level": LowLevel(),
    "mid_level": MidLevel(),
    "high_level": HighLevel(),
    "consistency": Consistency(),
}


WEIGH_LABELS = ("kd", "dkd", "dkd_share")


def check_combination(names: Sequence[str]) -> None:
    """Refuse methods that cannot teach together.

    Args:
        names: Keys of `DISTILLERS`.

    Raises:
        ValueError: none beside others, or two methods that weigh the labels.
    """
    joined = "+".join(names)
    if "none" in names and len(names) > 1:
        raise ValueError(f"none means that no teacher is asked; it cannot be part of {joined!r}")
    weighing = [name for name in names if name in WEIGH_LABELS]
    if len(weighing) > 1:
        raise ValueError(
            f"{' and '.join(weighing)} both say what the labels weigh; {joined!r} may have one"
        )


def build_loss(
    methods: Mapping[str, Any],
    *,
    student: nn.Module,
    teacher: nn.Module | None,
    image_size: tuple[int, int],
) -> TeachingLoss:
    """Make the loss of one training under one or several methods.

    Args:
        methods: Settings of each method, by its name in `DISTILLERS`.
        student: Network to be taught.
        teacher: Network that teaches; None where only its logits are at hand.
        image_size: Height and width of a training image.

    Raises:
        ValueError: The methods do not go together, or one of them cannot be built.
    """
    check_combination(tuple(methods))
    parts = [
        DISTILLERS[name].build(settings, student=student, teacher=teacher, image_size=image_size)
        for name, settings in methods.items()
    ]
    return parts[0] if len(parts) == 1 else SumOfLosses(parts)
