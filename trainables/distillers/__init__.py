"""Distillers: methods by which a student learns from a teacher in addition to the labels."""

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
PARTS = {
    "cwd": ("cwd_logits", "cwd_features"),
    "adaptive_channel": ("adaptive_feature", "channel_correlation", "cwd_logits"),
    "multi_level": ("low_level", "mid_level", "high_level", "consistency"),
}
"""Methods that are sums of others, with their parts."""


def check_combination(names: Sequence[str]) -> None:
    """Check that methods can be combined.

    Args:
        names: Keys of `DISTILLERS`.

    Raises:
        ValueError: none is combined with others, two methods set the weight of the labels, or a
            loss would count twice.
    """
    joined = "+".join(names)
    losses = [part for name in names for part in PARTS.get(name, (name,))]
    twice = [part for part in dict.fromkeys(losses) if losses.count(part) > 1]
    if twice:
        raise ValueError(f"{joined!r} contains {twice[0]} twice; leave one of them out")
    if "none" in names and len(names) > 1:
        raise ValueError(f"none means that there is no teacher, so it cannot be part of {joined!r}")
    weighing = [name for name in names if name in WEIGH_LABELS]
    if len(weighing) > 1:
        raise ValueError(
            f"{' and '.join(weighing)} both set the weight of the labels; {joined!r} may contain "
            "only one"
        )


def build_loss(
    methods: Mapping[str, Any],
    *,
    student: nn.Module,
    teacher: nn.Module | None,
    image_size: tuple[int, int],
) -> TeachingLoss:
    """Build the loss of one training for one or several methods.

    Args:
        methods: Settings of each method, by its name in `DISTILLERS`.
        student: Student network.
        teacher: Teacher network; None if only its logits are available.
        image_size: Height and width of a training image.

    Raises:
        ValueError: The methods cannot be combined, or one of them cannot be built.
    """
    check_combination(tuple(methods))
    parts = [
        DISTILLERS[name].build(settings, student=student, teacher=teacher, image_size=image_size)
        for name, settings in methods.items()
    ]
    return parts[0] if len(parts) == 1 else SumOfLosses(parts)
